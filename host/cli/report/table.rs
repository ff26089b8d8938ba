//! Our times beside other libraries': case by case, as a figure and a page show them.
use super::run::{Case, Kind, OURS, Outcome, Run, Time};
use std::collections::HashSet;

/// All of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The GPU that ours were timed on.
    pub machine: Option<String>,
    /// A kind each, of those that we have lines of.
    pub sections: Vec<Section>,
    /// What a reader has to know besides.
    pub notes: Vec<String>,
}

/// The cases of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// The kind.
    pub kind: Kind,
    /// Ceilings of its cases, by name.
    pub ceilings: Vec<(String, f64)>,
    /// Other libraries that have a line of any of the cases.
    pub peers: Vec<String>,
    /// In the order of our lines.
    pub entries: Vec<Entry>,
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What was asked for.
    pub case: Case,
    /// Ours.
    pub ours: Outcome,
    /// Theirs, in the order of [`Section::peers`].
    pub peers: Vec<Option<Outcome>>,
    /// The ceiling of its rate.
    pub ceiling: Option<f64>,
}

impl Entry {
    /// Which part of the ceiling ours reaches.
    pub fn part(&self) -> Option<f64> {
        Some(self.ours.time()?.rate? / self.ceiling?)
    }

    /// The shortest time of the others over ours: above 1 ours is faster.
    pub fn ratio(&self) -> Option<f64> {
        let times = self.peers.iter().flatten().filter_map(Outcome::time).map(|Time { us, .. }| us);
        Some(times.reduce(f64::min)? / self.ours.time()?.us)
    }
}

/// The geometric mean, the least and the number of a section's ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios {
    /// The geometric mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// Of so many cases.
    pub cases: usize,
}

impl Section {
    /// Of the cases that another library has a time of; `None` where there is no such case.
    pub fn ratios(&self) -> Option<Ratios> {
        let ratios: Vec<f64> = self.entries.iter().filter_map(Entry::ratio).collect();
        let least = ratios.iter().copied().reduce(f64::min)?;
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        Some(Ratios { mean, least, cases: ratios.len() })
    }
}

impl Report {
    /// Puts the others' lines of a case beside ours. A case that occurs more than once is its first line.
    pub fn new(ours: &Run, peers: &Run) -> Self {
        let mut notes = Vec::new();
        if let (Some(mine), Some(theirs)) = (&ours.machine, &peers.machine)
            && mine != theirs
        {
            notes.push(format!("The other libraries ran on another GPU, {theirs}: not to be compared."));
        }
        let sections: Vec<_> = Kind::ALL.into_iter().filter_map(|kind| section(kind, ours, peers)).collect();
        let shown: HashSet<&Case> = sections.iter().flat_map(|section| &section.entries).map(|one| &one.case).collect();
        let unshown: HashSet<&Case> = others(peers).map(|row| &row.case).filter(|case| !shown.contains(case)).collect();
        if !unshown.is_empty() {
            notes.push(format!(
                "{} cases of the other libraries are not shown: ours has no line of them.",
                unshown.len()
            ));
        }
        Self { machine: ours.machine.clone().or_else(|| peers.machine.clone()), sections, notes }
    }
}

fn others(run: &Run) -> impl Iterator<Item = &super::run::Row> {
    run.rows.iter().filter(|row| row.name != OURS)
}

fn section(kind: Kind, ours: &Run, peers: &Run) -> Option<Section> {
    let mut seen = HashSet::new();
    let mine = ours.rows.iter().filter(|row| row.name == OURS && row.case.kind == kind);
    let mine: Vec<_> = mine.filter(|row| seen.insert(&row.case)).collect();
    let mut names: Vec<String> = Vec::new();
    for row in others(peers).filter(|row| seen.contains(&row.case)) {
        if !names.contains(&row.name) {
            names.push(row.name.clone());
        }
    }
    let of = |name: &str, case: &Case| {
        let row = others(peers).find(|row| row.name == name && row.case == *case);
        row.map(|row| row.outcome.clone())
    };
    let ceiling = |case: &Case| ours.ceilings.iter().find(|(name, _)| name == case.ceiling());
    let entries: Vec<_> = mine
        .iter()
        .map(|row| Entry {
            case: row.case.clone(),
            ours: row.outcome.clone(),
            peers: names.iter().map(|name| of(name, &row.case)).collect(),
            ceiling: ceiling(&row.case).map(|&(_, rate)| rate),
        })
        .collect();
    let mut used: Vec<(String, f64)> = Vec::new();
    for one in entries.iter().filter_map(|entry| ceiling(&entry.case)) {
        if !used.contains(one) {
            used.push(one.clone());
        }
    }
    (!entries.is_empty()).then_some(Section { kind, ceilings: used, peers: names, entries })
}
