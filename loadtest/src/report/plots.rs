//! The plots of a report, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Report, Second, SweepReport};
use crate::record::Record;
use crate::sweep::Step;

/// Why a plot could not be drawn.
pub(super) type PlotError = DrawingAreaErrorKind<std::io::Error>;

/// A line's name, color and points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (720, 280);
const INK: RGBColor = RGBColor(40, 44, 52);
const BLUE_INK: RGBColor = RGBColor(31, 105, 180);
const GREEN_INK: RGBColor = RGBColor(44, 140, 74);
const RED_INK: RGBColor = RGBColor(190, 50, 46);

fn svg(draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    Ok(text)
}

/// Axes from 0 to the ends of some lines, and the lines with their names.
fn lines((x, y): (&str, &str), all: &[Line<'_>]) -> Result<String, PlotError> {
    let points = || all.iter().flat_map(|(_, _, points)| points);
    // Without points the axes still need a length.
    let end = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max).max(1e-3) * 1.05;
    let x_end = end(&mut points().map(|point| point.0));
    let y_end = end(&mut points().map(|point| point.1));
    svg(|area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..x_end, 0.0..y_end)?;
        chart
            .configure_mesh()
            .light_line_style(INK.mix(0.06))
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK.mix(0.5))
            .x_desc(x)
            .y_desc(y)
            .draw()?;
        for (name, color, points) in all {
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
            let color = *color;
            chart.draw_series(line)?.label(*name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
            });
        }
        if all.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.8))
                .draw()?;
        }
        Ok(())
    })
}

/// Which share of the answers had their first text, and which ended, within how many milliseconds.
pub(super) fn latencies(records: &[Record]) -> Result<String, PlotError> {
    let shares = |mut values: Vec<f64>| -> Vec<(f64, f64)> {
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let ranks = (1..).map(|rank| f64::from(rank) / count * 100.0);
        values.into_iter().zip(ranks).collect()
    };
    let first = records.iter().filter_map(|record| record.ttft_ms);
    let whole = records
        .iter()
        .filter(|record| record.outcome == crate::client::Outcome::Ok);
    let ends = whole.map(|record| record.total_ms);
    lines(
        ("milliseconds from when the request was due", "% of answers"),
        &[
            ("first text", BLUE_INK, shares(first.collect())),
            ("end", GREEN_INK, shares(ends.collect())),
        ],
    )
}

/// Requests, whole answers and failures of each second.
pub(super) fn over_time(report: &Report) -> Result<String, PlotError> {
    let of = |value: fn(&Second) -> usize| {
        let seconds = (0..).zip(&report.seconds);
        seconds
            .map(|(at, second)| (f64::from(at), value(second) as f64))
            .collect()
    };
    lines(
        ("second of the run", "requests"),
        &[
            ("due", BLUE_INK, of(|second| second.due)),
            ("answered", GREEN_INK, of(|second| second.answered)),
            ("failed", RED_INK, of(|second| second.failed)),
        ],
    )
}

/// Goodput, and all whole answers, by the rate at which requests were due.
pub(super) fn knee(steps: &[Step]) -> Result<String, PlotError> {
    let of = |value: fn(&Step) -> f64| {
        steps
            .iter()
            .map(move |step| (step.due_per_second, value(step)))
    };
    lines(
        ("requests due a second", "answers a second"),
        &[
            (
                "whole",
                BLUE_INK,
                of(|step| step.figures.answers_per_second).collect(),
            ),
            (
                "within the service level",
                GREEN_INK,
                of(|step| step.figures.goodput_per_second).collect(),
            ),
        ],
    )
}

/// Goodput of several servers, by the rate at which requests were due.
pub(super) fn knees(sweeps: &[(String, SweepReport)]) -> Result<String, PlotError> {
    let inks = [BLUE_INK, RED_INK, GREEN_INK, INK].into_iter().cycle();
    let all: Vec<Line<'_>> = sweeps
        .iter()
        .zip(inks)
        .map(|((name, report), ink)| {
            let points = report.steps.iter();
            let points = points.map(|step| (step.due_per_second, step.figures.goodput_per_second));
            (name.as_str(), ink, points.collect())
        })
        .collect();
    lines(("requests due a second", "good answers a second"), &all)
}
