//! A chart of horizontal bars as SVG, for the documentation.

use plotters::prelude::{Color, IntoDrawingArea, RGBColor, Rectangle, SVGBackend, Text, WHITE};

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
