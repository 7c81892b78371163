//! One kind: list it, as a stream or page by page, watch it, for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::io::AsyncBufReadExt;
use futures::stream::StreamExt;
use kube::api::{ListParams, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::decode::{self, Line, Page, Read};
use super::link::Link;
use super::servers::{Failure, Servers};
use super::{ApiOptions, Patience};
use crate::event::{Event, EventSender};
use crate::object::{Kind, ObjectRef, Problem};

/// Objects in a page of a list, as client-go has it (`defaultPageSize` in `tools/pager`).
const PAGE: u32 = 500;
/// A watch is asked for at least so many seconds, and up to twice as many, as client-go does.
const WATCH_SECONDS: u32 = 140;

/// A kind that the API server does not have is asked for so often, as it may be upgraded.
const ABSENT_KIND: Duration = Duration::from_secs(600);

/// The receiver is gone: there is nobody to work for.
struct Closed;

/// How a watch ended.
enum End {
    /// Go on where it stopped, at once.
    Resume,
    /// Go on where it stopped, later.
    ResumeLater,
    /// The place is gone: list again.
    Relist,
}

/// Lists and watches one kind.
pub(super) struct Reflector {
    kind: Kind,
    path: &'static str,
    labels: Option<String>,
    fields: Option<String>,
    servers: Arc<Servers>,
    link: Arc<Link>,
    patience: Patience,
    delay: Duration,
    /// Told when another kind has reached the API server again.
    back: watch::Receiver<()>,
    /// That has ended a wait, and nothing has come of it yet.
    was_woken: bool,
    events: EventSender,
    /// What is wrong with which object; `None` for those without a name.
    troubles: BTreeMap<Option<ObjectRef>, Problem>,
}

impl Reflector {
    /// The selectors are those of kube-proxy (`cmd/kube-proxy/app/server.go`), but for the cluster's own proxy: it has to see
    /// the Services of others, too, so as not to take their addresses for unallocated ones.
    pub(super) fn new(
        kind: Kind,
        options: &ApiOptions,
        servers: Arc<Servers>,
        link: Arc<Link>,
        patience: Patience,
        events: EventSender,
    ) -> Self {
        let proxy = match &options.proxy_name {
            None => "!service.kubernetes.io/service-proxy-name".to_owned(),
            Some(name) => format!("service.kubernetes.io/service-proxy-name={name}"),
        };
        let labels = format!("{proxy},!service.kubernetes.io/headless");
        let (path, labels, fields) = match kind {
            Kind::Service => {
                let labels = options.proxy_name.is_some().then_some(labels);
                ("/api/v1/services", labels, Some("spec.clusterIP!=None".to_owned()))
            }
            Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1/endpointslices", Some(labels), None),
            Kind::Node => ("/api/v1/nodes", None, Some(format!("metadata.name={}", options.node_name))),
            Kind::ServiceCidr => ("/apis/networking.k8s.io/v1/servicecidrs", None, None),
        };
        let delay = patience.first_retry;
        let (back, troubles) = (link.back(), BTreeMap::new());
        let was_woken = false;
        Self { kind, path, labels, fields, servers, link, patience, delay, back, was_woken, events, troubles }
    }

    /// Works until the receiver of the events is gone.
    pub(super) async fn run(mut self) {
        let _closed: Result<(), Closed> = self.work().await;
    }

    async fn work(&mut self) -> Result<(), Closed> {
        loop {
            let mut version = None;
            let mut end = self.watch(&mut version).await?;
            if version.is_none() {
                if matches!(end, End::ResumeLater) {
                    self.wait().await;
                }
                version = match self.list().await? {
                    Ok(version) => Some(version),
                    // Before Kubernetes 1.33 there are none.
                    Err(Failure::Refused(404, _)) if self.kind == Kind::ServiceCidr => {
                        self.tell(vec![Event::Listed { kind: self.kind, objects: BTreeSet::new() }]).await?;
                        sleep(ABSENT_KIND).await;
                        continue;
                    }
                    Err(failure) => {
                        tracing::debug!("listing {}s: {failure:?}", self.kind);
                        self.tell(self.link.failed(self.kind, &failure)).await?;
                        self.wait().await;
                        continue;
                    }
                };
                end = End::Resume;
            }
            loop {
                match end {
                    End::Resume => {}
                    End::ResumeLater => self.wait().await,
                    End::Relist => {
                        tracing::debug!("listing {}s anew", self.kind);
                        self.wait().await;
                        break;
                    }
                }
                end = self.watch(&mut version).await?;
            }
        }
    }

    /// Lists everything, page by page. Returns the place in time to watch from.
    async fn list(&mut self) -> Result<Result<String, Failure>, Closed> {
        self.back.mark_unchanged();
        let mut objects = BTreeSet::new();
        let mut params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        loop {
            let text = match self.servers.list(self.path, &params, self.patience.answer).await {
                Ok(text) => text,
                Err(failure) => return Ok(Err(failure)),
            };
            let page: Page<'_> = match serde_json::from_str(&text) {
                Ok(page) => page,
                Err(error) => return Ok(Err(Failure::NoAnswer(format!("the answer is not a list: {error}")))),
            };
            let mut news = self.link.answered(self.kind);
            for item in page.items.unwrap_or_default() {
                self.take(decode::object(self.kind, item), &mut objects, &mut news);
            }
            self.tell(news).await?;
            match page.metadata.r#continue.filter(|next| !next.is_empty()) {
                Some(next) => params.continue_token = Some(next),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_else(|| "0".to_owned());
                    let news = self.listed(objects);
                    self.tell(news).await?;
                    return Ok(Ok(version));
                }
            }
        }
    }

    /// What there is to say when all objects have come.
    fn listed(&mut self, objects: BTreeSet<ObjectRef>) -> Vec<Event> {
        let gone = |object: &Option<ObjectRef>| object.as_ref().is_none_or(|it| !objects.contains(it));
        let mended = self.troubles.extract_if(.., |object, _| gone(object) && object.is_some());
        let mut news: Vec<Event> = mended.map(|(_, problem)| Event::Mended(problem)).collect();
        news.push(Event::Listed { kind: self.kind, objects });
        news
    }

    /// Watches from a place in time, and keeps it up to date.
    ///
    /// From none: the server first sends every object there is (a streaming list, KEP-3157; beta since Kubernetes 1.32),
    /// and then says which place that was. Servers before that refuse, as may others: no place then, and the
    /// list is to be got page by page.
    async fn watch(&mut self, version: &mut Option<String>) -> Result<End, Closed> {
        self.back.mark_unchanged();
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(WATCH_SECONDS + fastrand::u32(0..WATCH_SECONDS)),
            bookmarks: true,
            send_initial_events: version.is_none(),
        };
        let began = Instant::now();
        let from = version.as_deref().unwrap_or_default();
        let (stream, server) = match self.servers.watch(self.path, &params, from, self.patience.answer).await {
            Ok(begun) => begun,
            Err(failure) => {
                tracing::debug!("watching {}s: {failure:?}", self.kind);
                let has_no_answer = matches!(failure, Failure::NoAnswer(_));
                // That says nothing about the place. A server that has just started may not know yet who may do what.
                let is_forbidden = matches!(failure, Failure::Refused(401 | 403, _));
                // What is wrong with the request for a streaming list, the list will show.
                if has_no_answer || version.is_some() {
                    self.tell(self.link.failed(self.kind, &failure)).await?;
                }
                return Ok(if has_no_answer || is_forbidden { End::ResumeLater } else { End::Relist });
            }
        };
        self.tell(self.link.answered(self.kind)).await?;
        let mut lines = Box::pin(stream).lines();
        let mut objects = BTreeSet::new();
        let mut has_news = false;
        loop {
            let quiet = if version.is_none() { self.patience.answer } else { self.patience.quiet };
            let text = match timeout(quiet, lines.next()).await {
                Ok(Some(Ok(text))) => text,
                // The end that the server was asked for, if it comes late enough.
                Ok(None) if version.is_some() && (has_news || began.elapsed() >= self.patience.short) => {
                    self.has_progressed();
                    return Ok(End::Resume);
                }
                broken => {
                    tracing::debug!("the watch of {}s broke off: {broken:?}", self.kind);
                    self.servers.leave(server);
                    return Ok(End::ResumeLater);
                }
            };
            if text.trim().is_empty() {
                continue;
            }
            let (line, next) = match decode::line(self.kind, &text) {
                Ok(read) => read,
                Err(error) => {
                    tracing::debug!("the watch of {}s sent what is no event: {error}", self.kind);
                    return Ok(End::Relist);
                }
            };
            let mut news = Vec::new();
            let next = next.filter(|next| !next.is_empty());
            match line {
                Line::Changed(read) => self.take(read, &mut objects, &mut news),
                Line::Gone(Some(object)) => {
                    news.extend(self.troubles.remove(&Some(object.clone())).map(Event::Mended));
                    objects.remove(&object);
                    news.push(Event::Delete(object));
                }
                Line::AllSent if version.is_none() => {
                    tracing::debug!("{}s came as a stream", self.kind);
                    news = self.listed(std::mem::take(&mut objects));
                    version.clone_from(&next);
                }
                Line::Gone(None) | Line::Bookmark | Line::AllSent => {}
                Line::Error(status) => {
                    tracing::debug!("the watch of {}s ended: {} {}", self.kind, status.code, status.message);
                    return Ok(End::Relist);
                }
            }
            if version.is_some() {
                objects.clear();
                if next.is_some() {
                    *version = next;
                }
                has_news = true;
                self.has_progressed();
            }
            self.tell(news).await?;
        }
    }

    /// Takes an object in: notes that it exists, and what is to be told.
    fn take(&mut self, read: Read, objects: &mut BTreeSet<ObjectRef>, news: &mut Vec<Event>) {
        match read {
            Read::Good(object) => {
                let reference = object.reference();
                news.extend(self.troubles.remove(&Some(reference.clone())).map(Event::Mended));
                objects.insert(reference);
                news.push(Event::Apply(object));
            }
            Read::Bad(problem) => {
                objects.extend(problem.object.clone());
                match self.troubles.insert(problem.object.clone(), problem.clone()) {
                    Some(known) if known == problem => return,
                    Some(known) => news.push(Event::Mended(known)),
                    None => {}
                }
                news.push(Event::Problem(problem));
            }
        }
    }

    async fn tell(&self, news: Vec<Event>) -> Result<(), Closed> {
        if news.is_empty() {
            return Ok(());
        }
        self.events.send(news).await.map_err(|_| Closed)
    }

    /// Waits before a retry: between half and one and a half times the delay, which doubles each time. Where another kind
    /// reaches the API server meanwhile, the wait is over, once: servers that answer some requests only would never be
    /// left in peace.
    pub(super) async fn wait(&mut self) {
        let delay = self.delay.mul_f64(0.5 + fastrand::f64());
        self.delay = (self.delay * 2).min(self.patience.last_retry);
        tokio::select! {
            () = sleep(delay) => {}
            Ok(()) = self.back.changed(), if !self.was_woken => self.was_woken = true,
        }
    }

    /// The next wait is a short one again.
    pub(super) fn has_progressed(&mut self) {
        self.delay = self.patience.first_retry;
        self.was_woken = false;
    }
}
