//! What ptxas says of an entry (`-v`), typed: the numbers that shape a kernel and the findings that forbid it.
use std::fmt;

/// Resources of one entry on one architecture, as ptxas reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Registers a thread.
    pub registers: u32,
    /// Hardware barriers in use.
    pub barriers: u32,
    /// Bytes of stack a thread: local memory, which no kernel here should have.
    pub stack_bytes: u32,
    /// Bytes a thread stores to local memory for want of registers.
    pub spill_store_bytes: u32,
    /// Bytes a thread loads back.
    pub spill_load_bytes: u32,
    /// Bytes of static shared memory a block; the dynamic part is not known here.
    pub shared_bytes: u32,
    /// Notes on performance, `C75xx`: `setmaxnreg` ignored, `wgmma` serialised.
    pub notes: Vec<String>,
}

impl Report {
    /// From ptxas's output on one entry; `None` where it does not name registers.
    pub(crate) fn parse(output: &str) -> Option<Self> {
        let mut report = Self { registers: number_before(output, " registers")?, ..Self::default() };
        report.barriers = number_before(output, " barriers").unwrap_or(0);
        // Functions that are not inlined have a line each: the largest is what a thread needs at least.
        let worst = |unit: &str| output.lines().filter_map(|line| number_before(line, unit)).max().unwrap_or(0);
        report.stack_bytes = worst(" bytes stack frame");
        report.spill_store_bytes = worst(" bytes spill stores");
        report.spill_load_bytes = worst(" bytes spill loads");
        report.shared_bytes = number_before(output, " bytes smem").unwrap_or(0);
        report.notes = output.lines().filter(|line| line.contains("C75")).map(|line| line.trim().to_owned()).collect();
        Some(report)
    }

    /// What is not allowed in a shipped kernel, in words; empty is good.
    pub fn findings(&self) -> Vec<String> {
        let counted = [
            (self.stack_bytes, "bytes of stack"),
            (self.spill_store_bytes, "bytes of spill stores"),
            (self.spill_load_bytes, "bytes of spill loads"),
        ];
        let numbers = counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        numbers.chain(self.notes.iter().cloned()).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} registers, {} barriers, stack {}, spills {}/{}, static shared {}",
            self.registers,
            self.barriers,
            self.stack_bytes,
            self.spill_store_bytes,
            self.spill_load_bytes,
            self.shared_bytes
        )?;
        self.notes.iter().try_for_each(|note| write!(f, "\n    {note}"))
    }
}

/// The number that stands right before `unit`.
fn number_before(text: &str, unit: &str) -> Option<u32> {
    let head = &text[..text.find(unit)?];
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    head[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Report;

    const OUTPUT: &str = "ptxas info    : 0 bytes gmem
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry
ptxas info    : Compiling entry function 'add_d64' for 'sm_90a'
ptxas info    : Function properties for add_d64
    16 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 154 registers, used 1 barriers, 16 bytes cumulative stack size, 48 bytes smem
";

    #[test]
    fn every_number_and_note_is_read() {
        let report = Report::parse(OUTPUT).unwrap();
        assert_eq!((report.registers, report.barriers, report.shared_bytes), (154, 1, 48));
        assert_eq!((report.stack_bytes, report.spill_store_bytes, report.spill_load_bytes), (16, 24, 32));
        assert_eq!(report.findings().len(), 4, "{:?}", report.findings());
        assert!(report.findings()[3].contains("C7508"));
    }

    #[test]
    fn a_clean_entry_has_no_finding_and_silence_is_no_report() {
        let clean = "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 12 registers, used 0 barriers";
        assert!(Report::parse(clean).unwrap().findings().is_empty());
        assert_eq!(Report::parse(""), None);
    }
}
