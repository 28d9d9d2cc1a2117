//! Charts as SVG: horizontal bars, for the documentation, and quantities over time.

use plotters::prelude::{
    Color, IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};

use crate::Result;

/// The lengths below are in pixels.
const WIDTH: u32 = 760;
const TITLE_HEIGHT: u32 = 34;
const ROW_HEIGHT: u32 = 26;
/// Where the bars begin: to the right of the labels.
const BARS_LEFT: i32 = 290;
/// The longest bar. The values stand behind the bars.
const BAR_MAX: f64 = 370.0;
const BAR_HEIGHT: i32 = 16;
const FONT: (&str, u32) = ("sans-serif", 13);

/// Headroom's own bars, and those of the others.
const OWN: RGBColor = RGBColor(31, 111, 178);
const OTHERS: RGBColor = RGBColor(158, 166, 174);

/// One bar.
pub(crate) struct Bar<'a> {
    pub(crate) label: &'a str,
    pub(crate) value: f64,
    /// Whether it is Headroom's.
    pub(crate) is_own: bool,
}

/// The chart of `bars` below `title`, which says the unit.
pub(crate) fn bars(title: &str, bars: &[Bar<'_>]) -> Result<String> {
    let rows = u32::try_from(bars.len())?;
    let largest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let size = (WIDTH, TITLE_HEIGHT + rows * ROW_HEIGHT + 8);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |text: &str, at: (i32, i32)| Text::new(text.to_owned(), at, FONT);
        area.draw(&text(title, (8, 10)))?;
        let tops = (TITLE_HEIGHT as i32..).step_by(ROW_HEIGHT as usize);
        for (bar, top) in bars.iter().zip(tops) {
            // Not more than `BAR_MAX`.
            let length = (BAR_MAX * bar.value / largest.max(f64::MIN_POSITIVE)) as i32;
            let color = if bar.is_own { OWN } else { OTHERS };
            let corners = [(BARS_LEFT, top), (BARS_LEFT + length, top + BAR_HEIGHT)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            area.draw(&text(bar.label, (8, top + 2)))?;
            let value = format!("{:.0}", bar.value);
            area.draw(&text(&value, (BARS_LEFT + length + 6, top + 2)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// Of a panel: from the top of its label to that of the next one, and of the part with the curve.
const PANEL_HEIGHT: i32 = 96;
const CURVE_TOP: i32 = 22;
const CURVE_HEIGHT: i32 = 58;
/// Where the curves begin, to the right of their least and largest values, and where they end.
const CURVE_LEFT: i32 = 90;
const CURVE_WIDTH: i32 = 650;

/// A quantity over time.
pub(crate) struct Panel<'a> {
    pub(crate) label: &'a str,
    /// Times and values.
    pub(crate) points: &'a [(f64, f64)],
    /// The ends of the line that was fitted to some of the points.
    pub(crate) line: [(f64, f64); 2],
}

/// The chart of `panels` below each other and below `title`. Each has its own scales.
pub(crate) fn panels(title: &str, panels: &[Panel<'_>]) -> Result<String> {
    let rows = u32::try_from(panels.len())?;
    let mut svg = String::new();
    {
        let size = (WIDTH, TITLE_HEIGHT + rows * PANEL_HEIGHT as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let text = |text: &str, at: (i32, i32)| Text::new(text.to_owned(), at, FONT);
        area.draw(&text(title, (8, 10)))?;
        let tops = (TITLE_HEIGHT as i32..).step_by(PANEL_HEIGHT as usize);
        for (panel, top) in panels.iter().zip(tops) {
            let all = || panel.points.iter().chain(&panel.line);
            let times = Scale::over(all().map(|(time, _)| *time));
            let values = Scale::over(all().map(|(_, value)| *value));
            let bottom = top + CURVE_TOP + CURVE_HEIGHT;
            // Both are within the curve's part.
            let place = |(time, value): &(f64, f64)| {
                let right = times.share(*time) * f64::from(CURVE_WIDTH);
                let up = values.share(*value) * f64::from(CURVE_HEIGHT);
                (CURVE_LEFT + right as i32, bottom - up as i32)
            };
            area.draw(&text(panel.label, (8, top)))?;
            let largest = format!("{:.1}", values.largest);
            area.draw(&text(&largest, (8, top + CURVE_TOP)))?;
            let least = format!("{:.1}", values.least);
            area.draw(&text(&least, (8, bottom - 10)))?;
            let curve: Vec<_> = panel.points.iter().map(place).collect();
            area.draw(&PathElement::new(curve, OTHERS.stroke_width(1)))?;
            let line = panel.line.iter().map(place).collect::<Vec<_>>();
            area.draw(&PathElement::new(line, OWN.stroke_width(2)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// The range of some numbers.
struct Scale {
    least: f64,
    largest: f64,
}

impl Scale {
    fn over(numbers: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            least: numbers.clone().fold(f64::INFINITY, f64::min),
            largest: numbers.fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Where a number of them lies, from 0 to 1. In the middle if all are equal.
    fn share(&self, number: f64) -> f64 {
        match self.largest > self.least {
            true => (number - self.least) / (self.largest - self.least),
            false => 0.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_has_its_label_its_range_its_curve_and_its_line() {
        let rising = Panel {
            label: "rising",
            points: &[(0.0, 5.0), (1.0, 15.0), (2.0, 25.0)],
            line: [(1.0, 15.0), (2.0, 25.0)],
        };
        let level = Panel {
            label: "level",
            points: &[(0.0, 7.0), (2.0, 7.0)],
            line: [(1.0, 7.0), (2.0, 7.0)],
        };
        let svg = panels("a title", &[rising, level]).unwrap();
        for text in ["a title", "rising", "level", "5.0", "25.0", "7.0"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}: {svg}");
        }
        // From the lower left to the upper right corner; and in the middle.
        assert!(svg.contains("points=\"90,114 415,85 740,56"), "{svg}");
        assert!(svg.contains("points=\"90,181 740,181"), "{svg}");
    }
}
