//! One kind: list it, watch it, for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::io::AsyncBufReadExt;
use futures::stream::StreamExt;
use kube::api::{ListParams, WatchParams};
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
        Self { kind, path, labels, fields, servers, link, patience, delay, events, troubles: BTreeMap::new() }
    }

    /// Works until the receiver of the events is gone.
    pub(super) async fn run(mut self) {
        let _closed: Result<(), Closed> = self.work().await;
    }

    async fn work(&mut self) -> Result<(), Closed> {
        loop {
            let mut version = match self.list().await? {
                Ok(version) => version,
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
            loop {
                match self.watch(&mut version).await? {
                    End::Resume => {}
                    End::ResumeLater => self.wait().await,
                    End::Relist => {
                        tracing::debug!("listing {}s anew", self.kind);
                        self.wait().await;
                        break;
                    }
                }
            }
        }
    }

    /// Lists everything. Returns the place in time to watch from.
    async fn list(&mut self) -> Result<Result<String, Failure>, Closed> {
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
                    let mut news = Vec::new();
                    let gone = |object: &Option<ObjectRef>| object.as_ref().is_none_or(|it| !objects.contains(it));
                    for (_, mended) in self.troubles.extract_if(.., |object, _| gone(object) && object.is_some()) {
                        news.push(Event::Mended(mended));
                    }
                    news.push(Event::Listed { kind: self.kind, objects });
                    self.tell(news).await?;
                    return Ok(Ok(version));
                }
            }
        }
    }

    /// Watches from a place in time, and keeps it up to date.
    async fn watch(&mut self, version: &mut String) -> Result<End, Closed> {
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(WATCH_SECONDS + fastrand::u32(0..WATCH_SECONDS)),
            bookmarks: true,
            ..WatchParams::default()
        };
        let began = Instant::now();
        let (stream, server) = match self.servers.watch(self.path, &params, version, self.patience.answer).await {
            Ok(begun) => begun,
            Err(failure) => {
                tracing::debug!("watching {}s: {failure:?}", self.kind);
                self.tell(self.link.failed(self.kind, &failure)).await?;
                return Ok(match failure {
                    Failure::NoAnswer(_) => End::ResumeLater,
                    Failure::Refused(..) | Failure::Expired => End::Relist,
                });
            }
        };
        self.tell(self.link.answered(self.kind)).await?;
        let mut lines = Box::pin(stream).lines();
        let mut has_news = false;
        loop {
            let text = match timeout(self.patience.quiet, lines.next()).await {
                Ok(Some(Ok(text))) => text,
                // The end that the server was asked for, if it comes late enough.
                Ok(None) if has_news || began.elapsed() >= self.patience.short => {
                    self.delay = self.patience.first_retry;
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
            match line {
                Line::Changed(read) => self.take(read, &mut BTreeSet::new(), &mut news),
                Line::Gone(Some(object)) => {
                    news.extend(self.troubles.remove(&Some(object.clone())).map(Event::Mended));
                    news.push(Event::Delete(object));
                }
                Line::Gone(None) | Line::Bookmark => {}
                Line::Error(status) => {
                    tracing::debug!("the watch of {}s ended: {} {}", self.kind, status.code, status.message);
                    return Ok(End::Relist);
                }
            }
            if let Some(next) = next.filter(|next| !next.is_empty()) {
                *version = next;
            }
            has_news = true;
            self.delay = self.patience.first_retry;
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

    /// Waits before a retry: between half and one and a half times the delay, which doubles each time.
    async fn wait(&mut self) {
        sleep(self.delay.mul_f64(0.5 + fastrand::f64())).await;
        self.delay = (self.delay * 2).min(self.patience.last_retry);
    }
}
