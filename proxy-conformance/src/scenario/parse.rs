//! From the text of a file to scenarios: blocks of lines under a keyword.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::endpoints::EndpointLines;
use super::{Action, File, Key, Place, Scenario, Step, line, objects};

/// A keyword at the beginning of a line, what stands after it, and the lines below that are indented.
struct Block<'a> {
    line: usize,
    keyword: &'a str,
    rest: &'a str,
    /// Number and text of each line, indentation and all.
    body: Vec<(usize, &'a str)>,
}

/// Reads a file, which is `shown` as this in errors. They name the line.
pub fn read(path: &Path, shown: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(shown, &text)
}

/// Reads the text of a file.
pub(super) fn parse(path: &Path, text: &str) -> Result<File> {
    let file: Arc<Path> = path.into();
    let at = |line| Place { file: Arc::clone(&file), line };
    let mut draft = Draft::default();
    for block in blocks(text).map_err(|(line, message)| anyhow::anyhow!("{}: {message}", at(line)))? {
        let line = block.line;
        draft.take(block, &at).with_context(|| at(line).to_string()).map_err(innermost_place)?;
    }
    ensure!(!draft.scenarios.is_empty(), "{}: no scenario in it", path.display());
    for scenario in &draft.scenarios {
        let is_test = scenario.steps.iter().any(|step| matches!(step.action, Action::Expect(_)));
        ensure!(is_test, "{}: the scenario expects nothing", scenario.place);
    }
    Ok(File { scenarios: draft.scenarios })
}

/// Of an error in a line of a block, that line's place is enough.
fn innermost_place(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<Placed>() {
        Some(placed) => anyhow::anyhow!("{placed}"),
        None => anyhow::anyhow!("{error:#}"),
    }
}

/// An error that says where it is by itself.
#[derive(Debug)]
struct Placed(String);

impl std::fmt::Display for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Placed {}

fn blocks(text: &str) -> Result<Vec<Block<'_>>, (usize, String)> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        // YAML's own separator may stand where it likes.
        if text.starts_with([' ', '\t']) || text.trim().is_empty() || text.trim_end() == "---" {
            match blocks.last_mut() {
                Some(block) => block.body.push((line, text)),
                None if text.trim().is_empty() => {}
                None => return Err((line, "an indented line belongs to a keyword above, and there is none".into())),
            }
        } else if !text.starts_with('#') {
            let Some((keyword, rest)) = text.split_once(':') else {
                return Err((line, format!("`{text}` is not a keyword and a colon")));
            };
            blocks.push(Block { line, keyword, rest: rest.trim(), body: Vec::new() });
        }
    }
    Ok(blocks)
}

/// A file while it is read.
#[derive(Default)]
struct Draft {
    feature: Option<String>,
    /// The steps before the first scenario, which are each scenario's.
    common: Vec<Step>,
    scenarios: Vec<Scenario>,
}

impl Draft {
    fn take(&mut self, block: Block<'_>, at: &impl Fn(usize) -> Place) -> Result<()> {
        let Block { line, keyword, rest, body } = block;
        let has_body = body.iter().any(|(_, text)| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
        if !matches!(keyword, "objects" | "endpoints" | "patch" | "expect") {
            ensure!(!has_body, "nothing may be indented under `{keyword}:`");
            ensure!(!rest.is_empty(), "`{keyword}:` says nothing");
        }
        match keyword {
            "feature" => {
                ensure!(self.feature.is_none() && self.scenarios.is_empty(), "`feature:` is said once, at the top");
                self.feature = Some(rest.to_owned());
            }
            "scenario" => {
                let feature = self.feature.clone().context("`feature:` comes before the first scenario")?;
                let is_known = self.scenarios.iter().any(|scenario| scenario.name == rest);
                ensure!(!is_known, "there is a scenario `{rest}` already");
                self.scenarios.push(Scenario {
                    place: at(line),
                    feature,
                    name: rest.to_owned(),
                    options: Vec::new(),
                    pending: None,
                    host_only: None,
                    steps: self.common.clone(),
                });
            }
            "options" => {
                let scenario = self.scenarios.last_mut().context("`options:` is a scenario's")?;
                scenario.options.extend(rest.split_whitespace().map(str::to_owned));
            }
            "pending" => {
                self.scenarios.last_mut().context("`pending:` is a scenario's")?.pending = Some(rest.to_owned());
            }
            "host only" => {
                self.scenarios.last_mut().context("`host only:` is a scenario's")?.host_only = Some(rest.to_owned());
            }
            "objects" => {
                ensure!(rest.is_empty(), "the objects are written below `objects:`, indented");
                let place = at(line);
                let objects = objects::documents(&body).map_err(|(line, message)| placed(at(line), message))?;
                ensure!(!objects.is_empty(), "no object below `objects:`");
                self.step(place, Action::Objects(objects));
            }
            "patch" => {
                let key = Key::parse(rest)?;
                let mut patches = objects::documents(&body).map_err(|(line, message)| placed(at(line), message))?;
                let patch = patches.pop().filter(|_| patches.is_empty());
                self.step(at(line), Action::Patch(key, patch.context("a patch is one YAML document")?));
            }
            "endpoints" => {
                let lines = EndpointLines::parse(rest, &body).map_err(|(line, message)| placed(at(line), message))?;
                self.step(at(line), Action::Endpoints(lines));
            }
            "delete" => self.step(at(line), Action::Delete(Key::parse(rest)?)),
            "wait" => {
                let seconds = rest.strip_suffix(" s").and_then(|seconds| seconds.parse().ok());
                self.step(at(line), Action::Wait(seconds.context("expected seconds, as in `wait: 2 s`")?));
            }
            "expect" => {
                ensure!(rest.is_empty(), "what is expected is written below `expect:`, a line each, indented");
                ensure!(!self.scenarios.is_empty(), "`expect:` is a scenario's");
                for (line, text) in body {
                    let text = text.trim();
                    if text.is_empty() || text.starts_with('#') {
                        continue;
                    }
                    let parsed = line::parse(text).map_err(|error| placed(at(line), format!("{error:#}")))?;
                    self.step(at(line), Action::Expect(Box::new(parsed)));
                }
            }
            other => bail!(
                "`{other}:` is no keyword; there are feature, scenario, options, pending, host only, objects, endpoints, \
                 patch, delete, wait, expect"
            ),
        }
        Ok(())
    }

    fn step(&mut self, place: Place, action: Action) {
        let steps = self.scenarios.last_mut().map_or(&mut self.common, |scenario| &mut scenario.steps);
        steps.push(Step { place, action });
    }
}

fn placed(place: Place, message: impl std::fmt::Display) -> Placed {
    Placed(format!("{place}: {message}"))
}
