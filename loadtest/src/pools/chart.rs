//! The chart: a bar for each peer's answers per second, with its latency beside it. It follows the
//! page's light or dark colours.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::results::{Group, PeerResult, Results, grouped};
use crate::Error;

const WIDTH: f64 = 900.0;
/// Where bars begin. Labels are to the left.
const LEFT: f64 = 270.0;
/// The length of the longest bar. Figures are to the right.
const LONGEST: f64 = 400.0;
const BAR: f64 = 20.0;
const STEP: f64 = 30.0;
/// The height of a group's title.
const HEAD: f64 = 44.0;

const STYLE: &str = "\
  <style>
    :root { --page: #ffffff; --ink: #1f2328; --soft: #57606a; --ours: #1a7f37; --other: #8c959f; }
    @media (prefers-color-scheme: dark) {
      :root { --page: #0d1117; --ink: #e6edf3; --soft: #9ea7b3; --ours: #3fb950; --other: #6e7681; }
    }
    text { font: 13px ui-sans-serif, system-ui, \"Segoe UI\", Helvetica, Arial, \"DejaVu Sans\", sans-serif; fill: var(--ink); }
    .title { font-weight: 600; font-size: 15px; }
    .label { text-anchor: end; }
    .soft { fill: var(--soft); }
    .ours { fill: var(--ours); }
    .other { fill: var(--other); }
  </style>
";

pub(super) fn write(results: &Results, path: &Path) -> Result<(), Error> {
    let what = format!("cannot write {}", path.display());
    fs::write(path, draw(results.groups(), &results.conditions())).map_err(Error::io(what))
}

fn draw(groups: &[Group], conditions: &str) -> String {
    let bars: usize = groups.iter().map(|group| group.peers.len()).sum();
    let height = bars as f64 * STEP + groups.len() as f64 * HEAD + HEAD;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"title desc\">\n  \
         <title id=\"title\">Answers per second, and the latency that 99 % stay below</title>\n  \
         <desc id=\"desc\">{}</desc>\n{STYLE}  \
         <rect width=\"100%\" height=\"100%\" fill=\"var(--page)\"/>\n",
        described(groups)
    );
    let mut top = 0.0;
    for group in groups {
        draw_group(&mut svg, group, top);
        top += HEAD + group.peers.len() as f64 * STEP;
    }
    let at = top + HEAD / 2.0;
    line(
        &mut svg,
        &format!("<text class=\"soft\" x=\"20\" y=\"{at}\">{conditions}</text>"),
    );
    svg + "</svg>\n"
}

fn draw_group(svg: &mut String, group: &Group, top: f64) {
    let rates = group.peers.iter().map(|peer| peer.summary.per_second);
    let most = rates.fold(f64::MIN_POSITIVE, f64::max);
    let at = top + HEAD - 16.0;
    let title = group.title;
    line(
        svg,
        &format!("<text class=\"title\" x=\"20\" y=\"{at}\">{title}</text>"),
    );
    for (index, peer) in group.peers.iter().enumerate() {
        let top = top + HEAD + index as f64 * STEP;
        let text = top + BAR - 5.0;
        let width = LONGEST * peer.summary.per_second / most;
        let class = if is_ours(peer) { "ours" } else { "other" };
        let (label, figures) = (peer.label, figures(peer));
        let (label_at, figures_at) = (LEFT - 10.0, LEFT + width + 8.0);
        for part in [
            format!("<text class=\"label\" x=\"{label_at}\" y=\"{text}\">{label}</text>"),
            format!(
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" \
                 height=\"{BAR}\" rx=\"3\"/>"
            ),
            format!("<text x=\"{figures_at:.1}\" y=\"{text}\">{figures}</text>"),
        ] {
            line(svg, &part);
        }
    }
}

fn line(svg: &mut String, part: &str) {
    // Writing to a string cannot fail.
    writeln!(svg, "  {part}").ok();
}

fn is_ours(peer: &PeerResult) -> bool {
    peer.label.starts_with("Headroom")
}

fn figures(peer: &PeerResult) -> String {
    let rate = grouped(peer.summary.per_second);
    format!("{rate}/s, p99 {:.1} ms", peer.summary.p99_ms)
}

/// The chart as text.
fn described(groups: &[Group]) -> String {
    let group = |group: &Group| {
        let peers = group.peers.iter();
        let peers = peers.map(|peer| format!("{} {}", peer.label, figures(peer)));
        format!("{}: {}.", group.title, peers.collect::<Vec<_>>().join("; "))
    };
    groups.iter().map(group).collect::<Vec<_>>().join(" ")
}
