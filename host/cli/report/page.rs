//! The page: the figure and a table a kind, one HTML file that needs no other.
use super::run::{Outcome, Time};
use super::table::{Entry, Ratios, Report, Section};
use crate::cli::report::{PNG, SVG};
use std::fmt::Write as _;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;color:#222;max-width:1180px;margin:2em auto;padding:0 1em}\
    h1{font-size:22px}h2{font-size:17px;margin-top:2em}svg{width:100%;height:auto}\
    table{border-collapse:collapse}th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #e1e1e1}\
    th{border-bottom:2px solid #999}th.w,td.w{text-align:left}td.best{font-weight:600}td.error{color:#be1e1e;text-align:left}\
    .note{color:#666}";

/// Text in HTML, within attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The page with `svg` in it.
pub fn html(report: &Report, svg: &str) -> String {
    let machine = report.machine.as_deref().map_or_else(String::new, |machine| format!(" on {}", escape(machine)));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>qkv{machine}</title>\
         <style>{STYLE}</style></head>\n<body><h1>qkv{machine}</h1>\n"
    );
    // Writing to a string cannot fail.
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(note));
    }
    let _ = writeln!(
        page,
        "<figure>{svg}</figure>\n<p class=\"note\"><a href=\"{SVG}\">SVG</a>, <a href=\"{PNG}\">PNG</a></p>"
    );
    report.sections.iter().for_each(|one| section(&mut page, one));
    page.push_str("</body></html>\n");
    page
}

fn section(page: &mut String, section: &Section) {
    let unit = section.kind.unit();
    let _ = writeln!(page, "<h2>{}</h2>", section.kind.name());
    for (name, rate) in &section.ceilings {
        let _ = writeln!(page, "<p>Ceiling of {}: {rate:.0} {unit}.</p>", escape(name));
    }
    if let Some(Ratios { mean, least, cases }) = section.ratios() {
        let words = "the shortest time of the others over ours (above 1 ours is faster)";
        let _ = writeln!(page, "<p>Geometric mean of {words}: {mean:.3}; the least: {least:.3}; {cases} cases.</p>");
    }
    page.push_str("<table>\n<tr><th class=\"w\">model<th>sequences \u{d7} tokens<th class=\"w\">cache, variant");
    let _ = write!(page, "<th>qkv, \u{b5}s<th>{unit}<th>of ceiling<th>error");
    for name in &section.peers {
        let _ = write!(page, "<th>{}, \u{b5}s", escape(name));
    }
    page.push_str(if section.peers.is_empty() { "</tr>\n" } else { "<th>best / qkv</tr>\n" });
    section.entries.iter().for_each(|one| entry(page, one));
    page.push_str("</table>\n");
}

fn entry(page: &mut String, entry: &Entry) {
    let case = &entry.case;
    let [model, load, details] = [&case.model, &case.load(), &case.details()].map(|text| escape(text));
    let _ = write!(page, "<tr><td class=\"w\">{model}<td>{load}<td class=\"w\">{details}");
    let or_dash = |number: Option<String>| number.unwrap_or_else(|| "\u{2013}".into());
    let best = entry.peers.iter().flatten().chain([&entry.ours]).filter_map(Outcome::time).map(|time| time.us);
    let best = best.fold(f64::INFINITY, f64::min);
    let class = |us: f64| if us <= best { " class=\"best\"" } else { "" };
    match &entry.ours {
        Outcome::Time(Time { us, rate, err }) => {
            let rate = or_dash(rate.map(|rate| format!("{rate:.0}")));
            let part = or_dash(entry.part().map(|part| format!("{:.1} %", 100.0 * part)));
            let err = or_dash(err.map(|err| format!("{err:.1e}")));
            let _ = write!(page, "<td{}>{us:.1}<td>{rate}<td>{part}<td>{err}", class(*us));
        }
        Outcome::Error(error) => {
            let _ = write!(page, "<td class=\"error\" colspan=\"4\">{}", escape(error));
        }
    }
    for peer in &entry.peers {
        match peer {
            Some(Outcome::Time(Time { us, .. })) => {
                let _ = write!(page, "<td{}>{us:.1}", class(*us));
            }
            Some(Outcome::Error(error)) => {
                let _ = write!(page, "<td class=\"error\">{}", escape(error));
            }
            None => page.push_str("<td>\u{2013}"),
        }
    }
    if !entry.peers.is_empty() {
        let _ = write!(page, "<td>{}", or_dash(entry.ratio().map(|ratio| format!("{ratio:.2}"))));
    }
    page.push_str("</tr>\n");
}
