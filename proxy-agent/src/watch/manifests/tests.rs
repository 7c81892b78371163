//! What a person who edits a folder sees.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Manifests;
use super::reconcile::Reconciler;
use crate::event::{Event, EventReceiver};
use crate::object::Object;

/// A Service with an address that tells which version it is.
fn service(name: &str, version: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.{version}\n  ports:\n  - port: 80\n"
    )
}

/// Events in short: `+web.1` an applied Service and its version, `-web` a deleted one, `=n` the end of a full list
/// with n objects, and problems in their words.
fn short(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| match event {
        Event::Apply(object) => match &**object {
            Object::Service(service) => {
                let version = service.cluster_ips.first().map_or("none".to_owned(), ToString::to_string);
                format!("+{}{}", service.name.name, version.trim_start_matches("10.96.0"))
            }
            other => format!("+{}", other.reference()),
        },
        Event::Delete(object) => format!("-{}", object.to_string().trim_start_matches("Service default/")),
        Event::Listed { objects, .. } => format!("={}", objects.len()),
        Event::Problem(problem) | Event::Mended(problem) => problem.to_string(),
    };
    events.iter().map(one).collect()
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<PathBuf, Result<String, String>>,
    reconciler: Reconciler,
}

impl Folder {
    /// A folder with files that has been read once.
    fn with(files: &[(&str, String)]) -> Self {
        let mut folder = Self::default();
        for (file, text) in files {
            folder.files.insert(Path::new("m").join(file), Ok(text.clone()));
        }
        folder.read();
        folder
    }

    fn read(&mut self) -> Vec<String> {
        short(&self.reconciler.scan(Ok(self.files.clone())))
    }

    fn write(&mut self, file: &str, text: impl Into<String>) -> Vec<String> {
        self.files.insert(Path::new("m").join(file), Ok(text.into()));
        self.read()
    }

    fn remove(&mut self, file: &str) -> Vec<String> {
        self.files.remove(&Path::new("m").join(file));
        self.read()
    }
}

#[test]
fn the_first_reading_ends_with_full_lists_and_later_ones_bring_changes_only() {
    let mut folder = Folder::default();
    let two = format!("# two Services\n{}---\n{}---\n", service("a", 1), service("b", 1));
    assert_eq!(folder.write("web.yaml", two.clone()), ["+a.1", "+b.1", "=2", "=0", "=0", "=0"]);
    assert!(folder.write("web.yaml", two.clone()).is_empty());
    assert!(folder.write("web.yaml", format!("{two}# a comment\n")).is_empty());
    assert_eq!(folder.write("web.yaml", format!("{}---\n{}", service("a", 2), service("b", 1))), ["+a.2"]);
    assert_eq!(folder.write("web.yaml", service("b", 1)), ["-a"]);
    assert!(folder.write("copy.yaml", "").is_empty());
    assert_eq!(folder.remove("web.yaml"), ["-b"]);
}

#[test]
fn an_object_that_moves_to_another_file_is_no_change() {
    let mut folder = Folder::with(&[("one.yaml", service("a", 1))]);
    folder.files.clear();
    assert!(folder.write("two.yaml", service("a", 1)).is_empty());
}

#[test]
fn lists_json_and_other_kinds() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n\
                - {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}\n";
    let json = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\"},\n\
                \t\"spec\": {\"clusterIP\": \"10.96.0.1\", \"ports\": [{\"port\": 80}]}\n}\n";
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: s}\n";
    let mut folder = Folder::default();
    assert_eq!(folder.write("list.yml", list), ["+Node n1", "=0", "=0", "=1", "=0"]);
    assert_eq!(folder.write("a.json", json), ["+a.1"]);
    assert_eq!(folder.write("s.yaml", slice), ["+EndpointSlice default/s"]);
    let ranges =
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: c}\nspec: {cidrs: [10.96.0.0/16]}\n";
    assert_eq!(folder.write("c.yaml", ranges), ["+ServiceCIDR c"]);
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_object() {
    let head = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n";
    for (text, expected) in [
        (
            format!("{head}spec:\n  ports:\n  - port: 70000\n"),
            "m/x.yaml:7: Service default/web: spec.ports[0].port: 70000 is not a port: expected 1 to 65535",
        ),
        (
            format!("# one\n---\n{head}spec:\n  ports:\n  - port: http\n"),
            "m/x.yaml:9: Service default/web: spec.ports[0].port: invalid type: string \"http\", expected i32",
        ),
        (
            format!("{head}spec:\n  clusterIPs: [10.96.0.1, 10.96.0.2]\n"),
            "m/x.yaml:6: Service default/web: spec.clusterIPs[1]: 10.96.0.2 is a second address of its family: \
             one is allowed",
        ),
        (
            format!("{head}spec:\n  clusterIP: 10.96.0\n"),
            "m/x.yaml:6: Service default/web: spec.clusterIP: '10.96.0' is not an IP address",
        ),
        (
            format!("{head}spec:\n  type: Loadbalancer\n"),
            "m/x.yaml:6: Service default/web: spec.type: 'Loadbalancer' is not a type: expected ClusterIP, NodePort, \
             LoadBalancer or ExternalName",
        ),
        (
            format!("{head}spec:\n  ports:\n  - {{port: 80, name: a}}\n  - {{port: 81, name: a}}\n"),
            "m/x.yaml:8: Service default/web: spec.ports[1].name: 'a' is also the name of spec.ports[0]",
        ),
        (
            format!("{head}spec:\n  ports:\n  - {{port: 80, name: a}}\n  - {{port: 80, name: b, protocol: tcp}}\n"),
            "m/x.yaml:8: Service default/web: spec.ports[1].protocol: 'tcp' is not a protocol: expected TCP, UDP or \
             SCTP",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {}\n".to_owned(), "m/x.yaml:3: metadata.name: missing"),
        (format!("{head}spec: [\n"), "m/x.yaml:5: not valid YAML: unclosed bracket '['"),
        ("- web\n".to_owned(), "m/x.yaml:1: not a Kubernetes object: it has no kind"),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: s}\n".to_owned(),
            "m/x.yaml:1: EndpointSlice default/s: apiVersion: 'discovery.k8s.io/v1beta1' has no EndpointSlice that can \
             be read: expected discovery.k8s.io/v1",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv6\nmetadata: {name: s}\n\
             endpoints:\n- addresses: [10.244.0.1]\n"
                .to_owned(),
            "m/x.yaml:6: EndpointSlice default/s: endpoints[0].addresses[0]: 10.244.0.1 is not of the slice's \
             addressType IPv6",
        ),
        (format!("{head}metadata:\n  name: web\n"), "m/x.yaml:5: not valid YAML: duplicate mapping key: metadata"),
    ] {
        let mut folder = Folder::with(&[]);
        assert_eq!(folder.write("x.yaml", text.clone()), [expected], "{text}");
        assert!(folder.read().is_empty(), "told once");
    }
}

#[test]
fn a_broken_document_keeps_its_object_and_the_others_go_on() {
    let text = |a: &str, version| format!("{a}---\n{}", service("b", version));
    let mut folder = Folder::with(&[("x.yaml", text(&service("a", 1), 1))]);

    // A field is wrong: the object can be told.
    let broken = service("a", 9).replace("80", "0");
    let told = ["m/x.yaml:8: Service default/a: spec.ports[0].port: 0 is not a port: expected 1 to 65535", "+b.2"];
    assert_eq!(folder.write("x.yaml", text(&broken, 2)), told);

    // Not even YAML: nothing of the file is taken for deleted.
    let told = ["m/x.yaml:1: not valid YAML: unclosed bracket '['", "+b.3"];
    assert_eq!(folder.write("x.yaml", text("[\n", 3)), told);

    assert_eq!(folder.write("x.yaml", text(&service("a", 2), 3)), ["+a.2"], "mended");
    assert_eq!(folder.write("x.yaml", text(&broken, 3)).len(), 1, "told again after it was mended");
    assert_eq!(folder.write("x.yaml", service("b", 3)), ["-a"], "removed on purpose");
}

#[test]
fn of_two_definitions_the_first_wins_and_the_other_is_ready_to_take_over() {
    let mut folder = Folder::with(&[("a.yaml", service("web", 1))]);
    let told = ["m/b.yaml:2: Service default/web: is already defined at m/a.yaml:1: ignored here"];
    assert_eq!(folder.write("b.yaml", format!("---\n{}", service("web", 2))), told);
    assert_eq!(folder.remove("a.yaml"), ["+web.2"]);
}

#[test]
fn what_cannot_be_read_stays() {
    let mut folder = Folder::with(&[("a.yaml", service("web", 1))]);
    folder.files.insert(Path::new("m/a.yaml").to_owned(), Err("cannot be read: no".to_owned()));
    assert_eq!(folder.read(), ["m/a.yaml: cannot be read: no"]);
    let gone = super::folder::scan(Path::new("/nonexistent/m"));
    let told = short(&folder.reconciler.scan(gone));
    assert_eq!(told, ["/nonexistent/m: cannot be read: No such file or directory (os error 2); what was in it stays"]);
}

async fn next(events: &mut EventReceiver) -> Vec<String> {
    let news = tokio::time::timeout(Duration::from_secs(8), events.recv()).await;
    short(&news.unwrap().unwrap())
}

#[tokio::test]
async fn changes_on_disk_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.yaml"), service("a", 1)).unwrap();
    fs::write(path(".a.yaml.swp"), service("hidden", 1)).unwrap();
    fs::write(path("notes.txt"), "not a manifest").unwrap();
    let (sender, mut events) = mpsc::channel(16);
    let source = tokio::spawn(Manifests::open(folder.path()).unwrap().run(sender));
    assert_eq!(next(&mut events).await, ["+a.1", "=1", "=0", "=0", "=0"]);

    // Truncated, then written: one change, no deletion in between.
    fs::write(path("a.yaml"), "").unwrap();
    fs::write(path("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(next(&mut events).await, ["+a.2"]);

    // Renamed over, as editors do.
    fs::write(path("new"), service("a", 3)).unwrap();
    fs::rename(path("new"), path("a.yaml")).unwrap();
    assert_eq!(next(&mut events).await, ["+a.3"]);

    // A mounted ConfigMap: the file is a link through a link that is replaced.
    for version in [1, 2] {
        fs::create_dir(path(&format!("..v{version}"))).unwrap();
        fs::write(path(&format!("..v{version}/c.yaml")), service("c", version)).unwrap();
    }
    symlink("..v1", path("..data")).unwrap();
    symlink("..data/c.yaml", path("c.yaml")).unwrap();
    assert_eq!(next(&mut events).await, ["+c.1"]);
    symlink("..v2", path("..next")).unwrap();
    fs::rename(path("..next"), path("..data")).unwrap();
    assert_eq!(next(&mut events).await, ["+c.2"]);

    fs::remove_file(path("a.yaml")).unwrap();
    assert_eq!(next(&mut events).await, ["-a"]);
    drop(events);
    tokio::time::timeout(Duration::from_secs(5), source).await.unwrap().unwrap();
}

#[test]
fn a_folder_that_is_not_there_is_an_error_at_the_start() {
    let error = Manifests::open(Path::new("/nonexistent/m")).map(drop).map_err(|error| error.to_string());
    let expected = "cannot read the folder of manifests /nonexistent/m: No such file or directory (os error 2)";
    assert_eq!(error, Err(expected.to_owned()));
}
