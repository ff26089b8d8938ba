//! The figure: each case's rate against the ceiling of its kind, ours beside the others', as SVG and, drawn from that, PNG.
use super::run::{Outcome, Time};
use super::table::{Entry, Report, Section};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};
use std::sync::Arc;

/// Pixels of the PNG a unit of the SVG: sharp on a screen of twice the usual density.
pub const PNG_SCALE: u32 = 2;

/// Width, and columns of it: the model, the load and the rest, the plot's begin and end; behind it the part of the ceiling.
const WIDTH: u32 = 1140;
const MODEL_X: i32 = 18;
const CASE_X: i32 = 160;
const DETAILS_X: i32 = 272;
const PLOT_X: [i32; 2] = [460, 1050];

const ROW: u32 = 18;
/// Between models.
const GAP: u32 = 8;
/// A section's title, legend and ceilings; its axis.
const HEAD: u32 = 92;
const AXIS: u32 = 52;
/// The title of all.
const TITLE: u32 = 46;
const NOTE: u32 = 20;

/// Letters of a case's details that there is room for.
const DETAILS: usize = 27;

/// The first is in the PNG, the others where the SVG is looked at without it.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";

const OURS: RGBColor = RGBColor(11, 92, 173);
const PEERS: [RGBColor; 5] = [
    RGBColor(214, 111, 21),
    RGBColor(32, 134, 82),
    RGBColor(132, 62, 164),
    RGBColor(176, 42, 88),
    RGBColor(110, 98, 20),
];
const CEILING: RGBColor = RGBColor(190, 30, 30);
const TEXT: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(120, 120, 120);
const RULE: RGBColor = RGBColor(225, 225, 225);

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FigureError {
    /// Something that cannot be drawn.
    #[error("the figure cannot be drawn: {0}")]
    Draw(String),
    /// An SVG that cannot be turned into pixels.
    #[error("no PNG of the figure: {0}")]
    Pixels(String),
}

/// What drawing returns.
type Drawn<T = ()> = Result<T, FigureError>;

type Canvas<'s> = DrawingArea<SVGBackend<'s>, plotters::coord::Shift>;

fn drawn<T, E: core::fmt::Display>(result: Result<T, E>) -> Drawn<T> {
    result.map_err(|error| FigureError::Draw(error.to_string()))
}

/// What XML has no character for, as a line's strings may have, is shown as such.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters - 1).chain(['\u{2026}']).collect()
}

/// A text's size is that of its letters in the SVG.
fn font(size: f64, color: RGBColor) -> TextStyle<'static> {
    // The backend divides by this.
    (FONT, 1.24 * size).into_font().color(&color)
}

fn say(canvas: &Canvas<'_>, at: (i32, i32), text: &str, style: &TextStyle<'_>, align: HPos) -> Drawn {
    let style = style.pos(Pos::new(align, VPos::Center));
    drawn(canvas.draw(&Text::new(printable(text), at, style)))
}

/// A library's sign: ours filled, the others' hollow, in turn circles, triangles, squares and crosses.
fn mark(canvas: &Canvas<'_>, (x, y): (i32, i32), peer: Option<usize>) -> Drawn {
    let Some(index) = peer else {
        return drawn(canvas.draw(&Circle::new((x, y), 5, OURS.filled())));
    };
    let style = PEERS[index % PEERS.len()].stroke_width(2);
    let line = |points: Vec<(i32, i32)>| drawn(canvas.draw(&PathElement::new(points, style)));
    match index % 4 {
        0 => drawn(canvas.draw(&Circle::new((x, y), 4, style))),
        1 => line(vec![(x - 5, y + 4), (x + 5, y + 4), (x, y - 5), (x - 5, y + 4)]),
        2 => line(vec![(x - 4, y - 4), (x + 4, y - 4), (x + 4, y + 4), (x - 4, y + 4), (x - 4, y - 4)]),
        _ => {
            line(vec![(x - 4, y - 4), (x + 4, y + 4)])?;
            line(vec![(x - 4, y + 4), (x + 4, y - 4)])
        }
    }
}

fn height(section: &Section) -> u32 {
    let models = section.entries.chunk_by(|a, b| a.case.model == b.case.model).count() as u32;
    HEAD + ROW * section.entries.len() as u32 + GAP * models + AXIS
}

/// Draws a report.
///
/// # Errors
/// None that numbers and words of a line lead to.
pub fn svg(report: &Report) -> Drawn<String> {
    let mut svg = String::new();
    let notes = NOTE * report.notes.len() as u32;
    let size = (WIDTH, TITLE + notes + report.sections.iter().map(height).sum::<u32>().max(ROW));
    {
        let canvas = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        drawn(canvas.fill(&WHITE))?;
        let title = match &report.machine {
            Some(machine) => format!("qkv on {machine}"),
            None => "qkv".to_owned(),
        };
        say(&canvas, (MODEL_X, 28), &title, &font(18.0, TEXT), HPos::Left)?;
        let mut top = TITLE;
        for note in &report.notes {
            say(&canvas, (MODEL_X, top as i32 + 8), note, &font(11.0, FAINT), HPos::Left)?;
            top += NOTE;
        }
        for one in &report.sections {
            section(&canvas, one, top as i32)?;
            top += height(one);
        }
        drawn(canvas.present())?;
    }
    Ok(svg)
}

/// A section from `top` on.
fn section(canvas: &Canvas<'_>, section: &Section, top: i32) -> Drawn {
    let unit = section.kind.unit();
    let what = match section.kind {
        super::run::Kind::Decode => "bytes of K and V, read once, over the time",
        super::run::Kind::Append => "bytes read and written over the time",
        super::run::Kind::Prefill => "operations over the time",
    };
    say(canvas, (MODEL_X, top + 16), section.kind.name(), &font(15.0, TEXT), HPos::Left)?;
    say(canvas, (PLOT_X[0], top + 16), &format!("{unit}: {what}"), &font(11.0, FAINT), HPos::Left)?;
    let mut x = PLOT_X[0] + 6;
    let names = [(None, "qkv")].into_iter().chain(section.peers.iter().enumerate().map(|(i, name)| (Some(i), &**name)));
    for (peer, name) in names {
        mark(canvas, (x, top + 40), peer)?;
        say(canvas, (x + 12, top + 40), name, &font(11.5, TEXT), HPos::Left)?;
        x += 42 + 7 * name.chars().count() as i32;
    }
    say(canvas, (WIDTH as i32 - 14, top + 76), "of ceiling", &font(11.0, FAINT), HPos::Right)?;

    let rates = section.entries.iter().flat_map(|one| one.peers.iter().flatten().chain([&one.ours]));
    let rates = rates.filter_map(Outcome::time).filter_map(|time| time.rate);
    let most = rates.chain(section.ceilings.iter().map(|&(_, rate)| rate)).fold(1.0, f64::max);
    let scale = Scale { most: 1.04 * most };
    let bottom = top + (height(section) - AXIS) as i32;
    for tick in scale.ticks() {
        let x = scale.x(tick);
        drawn(canvas.draw(&PathElement::new([(x, top + HEAD as i32 - 6), (x, bottom)], RULE)))?;
        say(canvas, (x, bottom + 12), &format!("{tick}"), &font(11.0, FAINT), HPos::Center)?;
    }
    let mut y = top + HEAD as i32;
    for model in section.entries.chunk_by(|a, b| a.case.model == b.case.model) {
        drawn(canvas.draw(&PathElement::new([(MODEL_X, y - 1), (WIDTH as i32 - 14, y - 1)], RULE)))?;
        y += GAP as i32;
        for (index, one) in model.iter().enumerate() {
            let middle = y + ROW as i32 / 2 - 2;
            if index == 0 {
                say(canvas, (MODEL_X, middle), &cut(&one.case.model, 19), &font(12.0, TEXT), HPos::Left)?;
            }
            entry(canvas, one, scale, middle)?;
            y += ROW as i32;
        }
    }
    for (index, (name, rate)) in (0..).zip(&section.ceilings) {
        let x = scale.x(*rate);
        let dashes = (top + HEAD as i32 - 8..bottom).step_by(8);
        for y in dashes {
            drawn(canvas.draw(&PathElement::new([(x, y), (x, y + 5)], CEILING.stroke_width(2))))?;
        }
        let label = format!("ceiling: {name}, {rate:.0} {unit}");
        say(canvas, (x - 4, top + 76 - 15 * index), &label, &font(11.5, CEILING), HPos::Right)?;
    }
    Ok(())
}

/// Rates across the plot, from 0.
#[derive(Clone, Copy)]
struct Scale {
    most: f64,
}

impl Scale {
    fn x(self, rate: f64) -> i32 {
        PLOT_X[0] + (rate / self.most * f64::from(PLOT_X[1] - PLOT_X[0])) as i32
    }

    /// Four to ten round numbers.
    fn ticks(self) -> impl Iterator<Item = f64> {
        let ten = 10_f64.powf(self.most.log10().floor());
        let step = [0.2, 0.5, 1.0].map(|part| part * ten).into_iter().find(|step| self.most / step <= 10.0);
        let step = step.unwrap_or(ten);
        (0..=(self.most / step) as u32).map(move |index| f64::from(index) * step)
    }
}

/// A case's line.
fn entry(canvas: &Canvas<'_>, entry: &Entry, scale: Scale, y: i32) -> Drawn {
    say(canvas, (CASE_X, y), &entry.case.load(), &font(11.5, TEXT), HPos::Left)?;
    let details = cut(&entry.case.details(), DETAILS);
    say(canvas, (DETAILS_X, y), &details, &font(11.5, FAINT), HPos::Left)?;
    let rate = |outcome: &Outcome| outcome.time().and_then(|Time { rate, .. }| rate);
    let ours = rate(&entry.ours);
    let theirs: Vec<_> =
        entry.peers.iter().enumerate().filter_map(|(i, one)| Some((i, rate(one.as_ref()?)?))).collect();
    let all = || theirs.iter().map(|&(_, rate)| rate).chain(ours);
    if let (Some(least), Some(most)) = (all().reduce(f64::min), all().reduce(f64::max)) {
        let ends = [(scale.x(least), y), (scale.x(most), y)];
        drawn(canvas.draw(&PathElement::new(ends, RGBColor(185, 195, 205).stroke_width(2))))?;
    }
    for (index, rate) in theirs {
        mark(canvas, (scale.x(rate), y), Some(index))?;
    }
    let (words, color) = match (&entry.ours, ours, entry.part()) {
        (Outcome::Error(error), ..) => {
            say(canvas, (PLOT_X[0] + 8, y), &cut(error, 84), &font(11.0, CEILING), HPos::Left)?;
            ("error".to_owned(), CEILING)
        }
        (_, Some(_), Some(part)) => (format!("{:.0} %", 100.0 * part), TEXT),
        (_, Some(rate), None) => (format!("{rate:.0}"), TEXT),
        (_, None, _) => ("no rate".to_owned(), FAINT),
    };
    if let Some(rate) = ours {
        mark(canvas, (scale.x(rate), y), None)?;
    }
    say(canvas, (WIDTH as i32 - 14, y), &words, &font(11.5, color), HPos::Right)
}

/// The same as PNG, [`PNG_SCALE`] times as large, with the font that the program brings along.
///
/// # Errors
/// An SVG that is none.
pub fn png(svg: &str) -> Drawn<Vec<u8>> {
    let pixels = |error: String| FigureError::Pixels(error);
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| pixels(error.to_string()))?;
    let size = tree.size().to_int_size();
    let mut map = tiny_skia::Pixmap::new(PNG_SCALE * size.width(), PNG_SCALE * size.height())
        .ok_or_else(|| pixels(format!("{} x {} pixels", size.width(), size.height())))?;
    let scale = tiny_skia::Transform::from_scale(PNG_SCALE as f32, PNG_SCALE as f32);
    resvg::render(&tree, scale, &mut map.as_mut());
    map.encode_png().map_err(|error| pixels(error.to_string()))
}
