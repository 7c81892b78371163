//! From what the files say, scan by scan, to events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::parse::{Parsed, parse};
use crate::event::Event;
use crate::object::{Kind, Object, ObjectRef, Problem};

/// The text of each file, or why it cannot be read.
pub(super) type Texts = BTreeMap<PathBuf, Result<String, String>>;
/// A reading of the folder, or why the folder itself cannot be read.
pub(super) type Scan = Result<Texts, Problem>;

/// The objects of the folder as they were last good.
///
/// Invariant: the events of all scans together lead to exactly `held`.
#[derive(Debug, Default)]
pub(super) struct Reconciler {
    held: BTreeMap<ObjectRef, Held>,
    /// Files as last read, so that only what changed is parsed.
    files: BTreeMap<PathBuf, (String, Parsed)>,
    problems: BTreeSet<Problem>,
    listed: bool,
}

/// An object and where it was last seen.
#[derive(Clone, Debug)]
struct Held {
    file: PathBuf,
    line: usize,
    object: Object,
}

impl Reconciler {
    /// Takes in a scan of the whole folder. Returns what changed; after the first scan also that all is listed.
    ///
    /// What cannot be read now but could before stays as it was: the object of a broken document; all objects of
    /// a file with a document of which not even the name can be read, unless they are elsewhere in it; all
    /// objects of a file that cannot be read.
    pub(super) fn scan(&mut self, scan: Scan) -> Vec<Event> {
        let scan = match scan {
            Ok(texts) => texts,
            Err(problem) => {
                let news = self.problems.insert(problem.clone()).then_some(Event::Problem(problem));
                return news.into_iter().collect();
            }
        };
        let mut problems = BTreeSet::new();
        let mut now: BTreeMap<ObjectRef, Held> = BTreeMap::new();
        let mut unsure_files = BTreeSet::new();
        let mut unsure_objects = BTreeSet::new();

        self.files.retain(|file, _| scan.contains_key(file));
        for (file, text) in scan {
            let text = match text {
                Ok(text) => text,
                Err(message) => {
                    problems.insert(Problem { place: Some(place(&file, None)), object: None, message });
                    unsure_files.insert(file);
                    continue;
                }
            };
            let parsed = self.parse(&file, text);
            for broken in &parsed.broken {
                match &broken.object {
                    Some(object) => drop(unsure_objects.insert((file.clone(), object.clone()))),
                    None => drop(unsure_files.insert(file.clone())),
                }
                problems.insert(Problem {
                    place: Some(place(&file, Some(broken.line))),
                    object: broken.object.clone(),
                    message: broken.message.clone(),
                });
            }
            for found in &parsed.objects {
                let object = found.object.reference();
                if let Some(first) = now.get(&object) {
                    problems.insert(Problem {
                        place: Some(place(&file, Some(found.line))),
                        object: Some(object),
                        message: format!(
                            "is already defined at {}: ignored here",
                            place(&first.file, Some(first.line))
                        ),
                    });
                    continue;
                }
                now.insert(object, Held { file: file.clone(), line: found.line, object: found.object.clone() });
            }
        }
        for (object, held) in &self.held {
            let unsure =
                unsure_files.contains(&held.file) || unsure_objects.contains(&(held.file.clone(), object.clone()));
            if unsure && !now.contains_key(object) {
                now.insert(object.clone(), held.clone());
            }
        }
        self.events(now, problems)
    }

    fn parse(&mut self, file: &Path, text: String) -> &Parsed {
        static NOTHING: Parsed = Parsed { objects: Vec::new(), broken: Vec::new(), ignored: Vec::new() };
        if self.files.get(file).is_none_or(|(known, _)| *known != text) {
            let parsed = parse(&text);
            for (line, kind) in &parsed.ignored {
                tracing::debug!("{}: kind {kind} is not used: ignored", place(file, Some(*line)));
            }
            self.files.insert(file.to_owned(), (text, parsed));
        }
        self.files.get(file).map_or(&NOTHING, |(_, parsed)| parsed)
    }

    /// What leads from the last state to this one.
    fn events(&mut self, now: BTreeMap<ObjectRef, Held>, problems: BTreeSet<Problem>) -> Vec<Event> {
        let mut events: Vec<Event> = problems.difference(&self.problems).cloned().map(Event::Problem).collect();
        for (object, held) in &now {
            if self.held.get(object).is_none_or(|before| before.object != held.object) {
                events.push(Event::Apply(Box::new(held.object.clone())));
            }
        }
        events.extend(self.held.keys().filter(|object| !now.contains_key(object)).cloned().map(Event::Delete));
        if !self.listed {
            events.extend(Kind::ALL.map(|kind| {
                let objects = now.keys().filter(|object| object.kind() == kind).cloned().collect();
                Event::Listed { kind, objects }
            }));
        }
        self.listed = true;
        self.held = now;
        self.problems = problems;
        events
    }
}

fn place(file: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    }
}
