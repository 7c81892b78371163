//! Figures as drawings: bars in SVG, a file for each kind of figure.
//!
//! A kind is what figures' cases begin with, up to the first `/`; what follows is a group of bars, and each subject a
//! bar in it. Colours are told apart by those who see none, too (Okabe and Ito's).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::report::{Figure, Report};

/// Pixels: a bar's height, the space between groups, the width of the longest bar, where bars begin, and of all.
const BAR: usize = 12;
const SPACE: usize = 14;
const LENGTH: f64 = 360.0;
const LEFT: usize = 230;
const WIDTH: usize = 720;
const TOP: usize = 60;
/// Where title and legend begin.
const EDGE: usize = 12;

const SUBJECTS: [(&str, &str); 6] = [
    ("direct", "#999999"),
    ("tc", "#0072b2"),
    ("tc-sends-on", "#56b4e9"),
    ("xdp", "#009e73"),
    ("kube-proxy-nftables", "#d55e00"),
    ("kube-proxy-iptables", "#e69f00"),
];

/// Writes the drawings of a report into a folder.
pub fn draw(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut kinds: BTreeMap<(&str, &str), Vec<&Figure>> = BTreeMap::new();
    for figure in &report.results {
        let (kind, _) = figure.case.split_once('/').unwrap_or((figure.case, ""));
        kinds.entry((figure.suite, kind)).or_default().push(figure);
    }
    for ((suite, kind), figures) in kinds {
        let path = folder.join(format!("{suite}-{kind}.svg"));
        fs::write(&path, svg(kind, &figures)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The number that a bar shows.
fn shown(figure: &Figure) -> f64 {
    figure.median.unwrap_or(figure.value)
}

/// One drawing.
fn svg(kind: &str, figures: &[&Figure]) -> String {
    let mut groups: BTreeMap<(usize, &str), Vec<&Figure>> = BTreeMap::new();
    for figure in figures {
        let (_, rest) = figure.case.split_once('/').unwrap_or(("", ""));
        // Where a group is named by a way and a number of Services, by the way first, then by the number.
        let number = rest.rsplit('/').next().and_then(|last| last.split('x').next()?.parse().ok()).unwrap_or(0);
        groups.entry((number, rest)).or_default().push(figure);
    }
    let most = figures.iter().map(|figure| shown(figure)).fold(f64::MIN_POSITIVE, f64::max);
    let unit = figures.first().map_or("", |figure| figure.unit);
    let mut body = String::new();
    let mut y = TOP;
    for ((_, group), figures) in &groups {
        text(&mut body, LEFT - 8, y + BAR, "end", group);
        for (subject, colour) in SUBJECTS {
            let Some(figure) = figures.iter().find(|figure| figure.subject == subject) else { continue };
            let width = shown(figure) / most * LENGTH;
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>",
                BAR - 2
            );
            let ratio = figure.ratio.map(|ratio| format!(" ({} ×)", number(ratio))).unwrap_or_default();
            let never = if figure.unit.contains("not served") { ": not served by then" } else { "" };
            let label = format!("{}{ratio}{never}", number(shown(figure)));
            let _ = writeln!(body, "<text x=\"{:.0}\" y=\"{}\">{label}</text>", LEFT as f64 + width + 6.0, y + BAR - 3);
            y += BAR;
        }
        y += SPACE;
    }
    let mut legend = String::new();
    let mut x = EDGE;
    for (subject, colour) in SUBJECTS.iter().filter(|(subject, _)| figures.iter().any(|it| it.subject == *subject)) {
        let _ = writeln!(legend, "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        text(&mut legend, x + 14, 39, "start", subject);
        x += 30 + subject.len() * 7;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#ffffff\"/>\n\
         <text x=\"{EDGE}\" y=\"20\" font-size=\"14\">{kind}, {unit}</text>\n{legend}{body}</svg>\n"
    )
}

fn text(to: &mut String, x: usize, y: usize, anchor: &str, content: &str) {
    let _ = writeln!(to, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{content}</text>");
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_that_of_the_largest_figure() {
        let figure = |case, subject, value| Figure {
            suite: "live",
            case,
            subject,
            family: None,
            protocol: None,
            value,
            unit: "ns",
            median: None,
            baseline: None,
            ratio: None,
        };
        let figures =
            [figure("cpu/a/10", "tc", 50.0), figure("cpu/a/10", "direct", 25.0), figure("cpu/a/1000", "tc", 100.0)];
        let drawn = svg("cpu", &figures.iter().collect::<Vec<_>>());
        for width in ["180.0", "90.0", "360.0"] {
            assert!(drawn.contains(&format!("width=\"{width}\"")), "{width}: {drawn}");
        }
        let place = |group: &str| drawn.find(&format!(">{group}<")).unwrap_or(0);
        assert!(place("a/10") < place("a/1000"), "by the number of Services");
        assert!(!drawn.contains("kube-proxy"), "who was not measured is not named");
    }
}
