//! Plots as SVG, in the page's colours.
//!
//! A strip is as wide as its place: its coordinates are per cent and its text stands beside it in the page, so that nothing shrinks
//! on a narrow screen. A chart has a fixed shape, narrow enough for a phone at full size.

use super::show;
use maud::{Markup, html};

/// A logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// From 1 (or less) to the next power of ten above all values.
    pub fn around(values: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (0.0f64, 1.0f64);
        for log in values.map(f64::log10).filter(|log| log.is_finite()) {
            low = low.min(log.floor());
            high = high.max(log.ceil());
        }
        Axis { low, high }
    }

    /// Where a value stands, in per cent.
    fn percent(&self, value: f64) -> f64 {
        // A little room for a dot at either end.
        let part = ((value.log10() - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        ((2.0 + part * 96.0) * 100.0).round() / 100.0
    }

    fn at(&self, value: f64) -> String {
        format!("{}%", self.percent(value))
    }

    fn powers(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low as i32..=self.high as i32).map(|exponent| 10f64.powi(exponent))
    }
}

/// A value on a strip.
#[derive(Clone, Debug)]
pub struct Dot {
    /// Which colour, by the place of the launcher.
    pub class: String,
    pub value: f64,
    /// What it says when it is pointed at.
    pub label: String,
}

/// A row's place among its ratios: a line over the middle half of our samples, a dot for each launcher, the mark.
pub fn strip(axis: &Axis, quartiles: Option<(f64, f64)>, dots: &[Dot], mark: Option<f64>) -> Markup {
    html! {
        svg class="strip" width="100%" height="22" role="img" {
            @for power in axis.powers() {
                line class=(if power == 1.0 { "one" } else { "grid" }) x1=(axis.at(power)) x2=(axis.at(power)) y1="0" y2="22" {}
            }
            @if let Some(mark) = mark {
                line class="mark" x1=(axis.at(mark)) x2=(axis.at(mark)) y1="2" y2="20" { title { "at most " (show::times(mark)) } }
            }
            @if let Some((low, high)) = quartiles {
                line class="quartiles" x1=(axis.at(low)) x2=(axis.at(high)) y1="11" y2="11" {}
            }
            // Ours last, on top.
            @for dot in dots.iter().rev() {
                circle class={ "dot " (dot.class) } cx=(axis.at(dot.value)) cy="11" r="5" { title { (dot.label) } }
            }
        }
    }
}

/// The numbers of the axis.
pub fn scale_of(axis: &Axis) -> Markup {
    html! {
        svg class="strip" width="100%" height="16" role="img" {
            @for power in axis.powers() {
                text x=(axis.at(power)) y="12" text-anchor=(anchor(axis.percent(power))) { (power_text(power)) }
            }
        }
    }
}

/// Text at the ends of an axis must not leave it.
fn anchor(percent: f64) -> &'static str {
    match percent {
        p if p < 5.0 => "start",
        p if p > 95.0 => "end",
        _ => "middle",
    }
}

fn power_text(power: f64) -> String {
    if power >= 1.0 { format!("{power:.0}×") } else { format!("{power}×") }
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    pub class: String,
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;
/// Room for the axes' numbers: left, and below.
const LEFT: f64 = 46.0;
const BELOW: f64 = 34.0;

/// Lines over a count, both axes from zero.
pub fn chart(lines: &[Line], across: &str, up: fn(f64) -> String) -> Markup {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied()).filter(|p| p.1.is_finite());
    let most_x = all().map(|p| p.0).fold(1.0, f64::max);
    let most_y = round_up(all().map(|p| p.1).fold(0.0, f64::max));
    let x = |value: f64| LEFT + value / most_x * (WIDTH - LEFT - 12.0);
    let y = |value: f64| HEIGHT - BELOW - value / most_y * (HEIGHT - BELOW - 10.0);
    let path = |line: &Line| {
        let points = line.points.iter().filter(|p| p.1.is_finite());
        points.map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect::<Vec<_>>().join(" ")
    };
    let step = (most_x / 8.0).ceil().max(1.0);
    let ticks = (0..=8).map(|n| f64::from(n) * step).take_while(|n| *n <= most_x);
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" {
            @for quarter in 0..=4 {
                @let value = most_y * f64::from(quarter) / 4.0;
                line class="grid" x1=(LEFT) x2=(WIDTH - 12.0) y1=(format!("{:.1}", y(value))) y2=(format!("{:.1}", y(value))) {}
                text x=(LEFT - 5.0) y=(format!("{:.1}", y(value) + 4.0)) text-anchor="end" { (up(value)) }
            }
            @for tick in ticks {
                text x=(format!("{:.1}", x(tick))) y=(HEIGHT - BELOW + 15.0) text-anchor="middle" { (tick) }
            }
            text x=((LEFT + WIDTH) / 2.0) y=(HEIGHT - 4.0) text-anchor="middle" { (across) }
            @for line in lines {
                polyline class={ "line " (line.class) } points=(path(line)) {}
                @for point in line.points.iter().filter(|p| p.1.is_finite()) {
                    circle class={ "dot " (line.class) } cx=(format!("{:.1}", x(point.0))) cy=(format!("{:.1}", y(point.1))) r="3" {
                        title { (line.name) ", " (point.0) ": " (up(point.1)) }
                    }
                }
            }
        }
    }
}

/// The next of 1, 2, 4, 5, 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || value.is_nan() {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 4.0, 5.0, 10.0].into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_reaches_around_all_values() {
        let axis = Axis::around([0.5, 3.0, 250.0].into_iter());
        assert_eq!((axis.low, axis.high), (-1.0, 3.0));
        assert_eq!(axis.powers().collect::<Vec<_>>(), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!((axis.percent(0.1), axis.percent(10.0), axis.percent(1000.0)), (2.0, 50.0, 98.0));
        assert_eq!((axis.percent(1e-9), axis.percent(1e9)), (2.0, 98.0));
        let nothing = Axis::around([f64::NAN].into_iter());
        assert_eq!((nothing.low, nothing.high), (0.0, 1.0));
    }

    #[test]
    fn a_strip_has_its_dots_its_spread_and_its_mark() {
        let axis = Axis::around([1.0, 100.0].into_iter());
        let dot =
            |class: &str, value| Dot { class: class.into(), value, label: format!("{class} <{value}>") };
        let svg =
            strip(&axis, Some((5.0, 20.0)), &[dot("c0", 10.0), dot("c1", 100.0)], Some(8.0)).into_string();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            svg.contains(r#"cx="50%""#)
                && svg.contains("class=\"mark\"")
                && svg.contains("class=\"quartiles\"")
        );
        assert!(svg.contains("c0 &lt;10&gt;"), "{svg}");
        assert!(!strip(&axis, None, &[], None).into_string().contains("mark"));
    }

    #[test]
    fn a_chart_leaves_out_what_is_no_number() {
        let line = Line {
            class: "c0".into(),
            name: "n".into(),
            points: vec![(1.0, 10.0), (2.0, f64::NAN), (3.0, 30.0)],
        };
        let svg = chart(&[line], "processes", show::three_digits).into_string();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN"), "{svg}");
        assert!(!chart(&[], "processes", show::three_digits).into_string().contains("NaN"));
    }

    #[test]
    fn the_top_of_a_chart_is_a_round_number() {
        assert_eq!([0.0, 0.9, 1.0, 3.1, 41.0, 7e5].map(round_up), [1.0, 1.0, 1.0, 4.0, 50.0, 1e6]);
    }
}
