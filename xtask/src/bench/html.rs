//! The page: one file that needs no other, for wide and narrow screens, light and dark.

use super::compare::{self, Compared};
use super::plot::{self, Axis, Dot, Line};
use super::report::{Measured, OURS, Report};
use super::scale::{self, Crowd, Scale, SideBySide};
use super::verdict::{self, Verdict};
use super::{show, table};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");
/// Colours that the style sheet has.
const COLOURS: usize = 6;

/// The whole page.
pub fn page(report: &Report, against: Option<(&Report, &[Compared])>) -> String {
    let sandboxes: Vec<&str> = sandboxes(report);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "vkernel beside the host" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "vkernel beside the host" }
                p.soft { (table::about(report)) }
                @if let Some((old, compared)) = against { (comparison(report, old, compared)) }
                @if !report.rows.is_empty() {
                    p { "How many times longer than natively each row takes, on a logarithmic scale; 1 is the better of the program as it is and bound to one CPU." }
                    (legend(&sandboxes))
                    (rows(report, &sandboxes))
                }
                @if let Some(scale) = &report.scale { (growth(scale)) }
                @if !report.rows.is_empty() { (samples(report)) }
                (launchers(report))
            }
        }
    };
    markup.into_string()
}

/// Launchers that are not the host itself; ours first, because the first has the first colour.
fn sandboxes(report: &Report) -> Vec<&str> {
    let mut names: Vec<&str> = report.columns().into_iter().filter(|name| table::is_sandbox(name)).collect();
    names.sort_by_key(|name| !name.starts_with(OURS));
    names
}

fn class(place: usize) -> String {
    format!("c{}", place % COLOURS)
}

fn legend(names: &[&str]) -> Markup {
    html! {
        ul.legend {
            @for (place, name) in names.iter().enumerate() { li { i class=(class(place)) {} (name) } }
            li { i.bar {} "at most" }
        }
    }
}

fn rows(report: &Report, sandboxes: &[&str]) -> Markup {
    let ratios = report.rows.iter().flat_map(|row| sandboxes.iter().filter_map(|name| row.ratio(name)));
    let axis = Axis::around(ratios);
    html! {
        @for group in report.rows.chunk_by(|a, b| a.group == b.group) {
            h2 { (group[0].group) }
            div.row { span {} div.plot { (plot::scale_of(&axis)) } span {} }
            @for row in group { (one_row(report, row, sandboxes, &axis)) }
        }
    }
}

fn one_row(report: &Report, row: &Measured, sandboxes: &[&str], axis: &Axis) -> Markup {
    let dot = |(place, name): (usize, &&str)| {
        let value = row.ratio(name)?;
        Some(Dot { class: class(place), value, label: format!("{name}: {}", show::times(value)) })
    };
    let dots: Vec<Dot> = sandboxes.iter().enumerate().filter_map(dot).collect();
    let ours = row.summary(OURS);
    let quartiles = ours.and_then(|s| Some((row.times(s.lower_quartile)?, row.times(s.upper_quartile)?)));
    let mark = row.row().and_then(|r| r.at_most.times(report.spare_cpu(OURS)));
    let verdict = verdict::of(report, row, OURS);
    let class = match verdict {
        Verdict::Reached => "reached",
        Verdict::Missed => "missed",
        Verdict::BelowFloor => "floor",
        Verdict::None => "",
    };
    html! {
        div.row {
            span { (row.title) }
            div.plot { (plot::strip(axis, quartiles, &dots, mark)) }
            div.figures {
                b class=(class) { (row.ratio(OURS).map(show::times).unwrap_or_default()) }
                @if let Some(ours) = ours { " " (show::figure(row.unit, ours.median)) }
                @if row.failures.contains_key(OURS) { span.missed { " failed" } }
                div.soft {
                    @if let Some(r) = row.row() {
                        @let mark = verdict::mark(report, r, OURS);
                        @if !mark.is_empty() { "at most " (mark) " " span class=(class) { (verdict.sign()) } }
                    }
                }
            }
        }
    }
}

fn comparison(report: &Report, old: &Report, compared: &[Compared]) -> Markup {
    html! {
        h2 { "Compared" }
        pre { (compare::text(old, report, compared)) }
    }
}

fn growth(found: &Scale) -> Markup {
    html! {
        h2 { "Scale" }
        @for call in scale::calls(found) {
            @let curves: Vec<_> = found.curves.iter().filter(|curve| curve.call == call).collect();
            // The host's curve is of another order; beside it the others would lie on the axis.
            @let (host, ours): (Vec<&scale::Curve>, Vec<&scale::Curve>) = curves.into_iter().partition(|curve| curve.launcher == "native");
            @for (name, curves) in [("vkernel", ours), ("native", host)] {
                @let lines: Vec<Line> = curves.iter().enumerate().map(|(place, curve)| line(place, curve)).collect();
                h3 { (call) " a second, " (name) }
                ul.legend { @for line in &lines { li { i class=(line.class) {} (line.name) } } }
                (plot::chart(&lines, "independent processes", thousands))
            }
        }
        @if let Some(text) = found.side_by_side.as_ref().and_then(SideBySide::text) {
            h3 { "Many vkernels" }
            p { (text) }
        }
        @if !found.crowds.is_empty() {
            h3 { "Many tasks" }
            div.wide {
                table {
                    tr { @for cell in Crowd::HEAD { th { (cell) } } }
                    @for crowd in &found.crowds { tr { @for cell in crowd.cells() { td { (cell) } } } }
                }
            }
        }
        @if !found.failures.is_empty() { ul { @for failure in &found.failures { li.missed { (failure) } } } }
    }
}

fn line(place: usize, curve: &scale::Curve) -> Line {
    let points = curve.points.iter().map(|point| (point.processes as f64, point.median())).collect();
    Line { class: class(place), name: curve.launcher.clone(), points }
}

fn thousands(rate: f64) -> String {
    format!("{}k", show::three_digits(rate / 1000.0))
}

/// Every sample, for who wants to look closely.
fn samples(report: &Report) -> Markup {
    let columns = report.columns();
    html! {
        h2 { "Samples" }
        details {
            summary { "All samples, round by round" }
            div.wide {
                table {
                    tr { th { "row" } @for name in &columns { th { (name) } } }
                    @for row in &report.rows {
                        tr {
                            td { (row.title) }
                            @for name in &columns {
                                td {
                                    @for sample in row.samples.get(*name).into_iter().flatten() {
                                        (sample.map_or("failed".into(), |v| show::figure(row.unit, v))) br;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if !report.left_out.is_empty() {
            h3 { "Left out" }
            ul { @for row in &report.left_out { li { (row.title) ": " (row.why) } } }
        }
        @let failed: Vec<&Measured> = report.rows.iter().filter(|row| !row.failures.is_empty()).collect();
        @if !failed.is_empty() {
            h3 { "Failures" }
            ul {
                @for row in failed {
                    @for (launcher, reasons) in &row.failures {
                        li { (row.title) ", " (launcher) ": " (reasons.join("; ")) }
                    }
                }
            }
        }
    }
}

fn launchers(report: &Report) -> Markup {
    html! {
        h2 { "Machine" }
        ul.soft {
            li { (report.host.name) ": " (report.host.cpu_model) ", " (report.host.cpus) " CPUs" }
            li { "Linux " (report.host.kernel) }
            @for launcher in report.launchers.iter().filter(|l| !l.prefix.is_empty()) {
                li { (launcher.name) ": " code { (launcher.prefix.join(" ")) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::super::scale::tests::scale;
    use super::*;

    fn full() -> Report {
        let mut report = report(
            "getppid",
            &[("native", &[100.0, 101.0]), ("vkernel", &[500.0, 520.0]), ("uml", &[9000.0])],
        );
        report.rows[0].failures.insert("uml".into(), vec!["<script>alert(1)</script>".into()]);
        report.scale = Some(scale());
        report
    }

    #[test]
    fn the_page_needs_no_other_file_and_fits_a_phone() {
        let page = page(&full(), None);
        for reference in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(page.contains("width=device-width") && page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let page = page(&full(), None);
        assert!(!page.contains("<script>"));
        assert!(
            page.contains("&lt;script&gt;")
                && page.contains("host &lt;1&gt;")
                && page.contains("CPU &amp; co")
        );
    }

    #[test]
    fn tags_are_balanced() {
        let page = page(&full(), None);
        for tag in [
            "html", "body", "svg", "div", "span", "ul", "li", "table", "tr", "td", "th", "p", "pre",
            "details", "line", "circle", "text",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn a_row_shows_ratio_figure_mark_and_every_sandbox() {
        let page = page(&full(), None);
        assert!(page.contains("5.07×") && page.contains("510 ns") && page.contains("at most 8×"), "{page}");
        assert!(page.contains("vkernel: 5.07×") && page.contains("uml: 89.6×"));
        assert!(page.contains("class=\"reached\""));
    }

    #[test]
    fn curves_comparison_and_what_is_left_out_are_there() {
        let new = full();
        let old = report("getppid", &[("native", &[100.0]), ("vkernel", &[200.0])]);
        let page = page(&new, Some((&old, &compare::compare(&old, &new))));
        assert!(page.contains("WORSE: getppid (vkernel): 2.00× before"), "{page}");
        assert!(
            page.contains("<polyline") && page.contains("vkernel --cpus 1") && page.contains("tar: no tar")
        );
    }
}
