//! Machine code as `nvdisasm` writes it: its loops, the shortest way round one, and what `docs/blackwell.md` publishes of them.
use super::{BUILT, root};
use std::collections::BTreeMap;
use std::ops::Range;

/// An instruction of a disassembly.
#[derive(Debug)]
struct Instruction<'a> {
    opcode: &'a str,
    /// Whether what follows it in the text may be what follows it in time.
    falls_through: bool,
    /// The label that it may go to.
    label: Option<&'a str>,
}

/// A function's instructions.
pub struct Code<'a> {
    instructions: Vec<Instruction<'a>>,
    /// The index of the one behind each label.
    labels: BTreeMap<&'a str, usize>,
}

impl<'a> Code<'a> {
    /// Those of `text`.
    pub fn parsed(text: &'a str) -> Self {
        let (mut instructions, mut labels) = (Vec::new(), BTreeMap::new());
        for line in text.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(':') {
                labels.insert(label, instructions.len());
            } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|line| line.split_once("*/"))
                && let Some((words, _)) = rest.split_once(';')
            {
                instructions.push(instruction(words.trim()));
            }
        }
        Self { instructions, labels }
    }

    /// Where the instruction at `index` may go to besides the next.
    fn target(&self, index: usize) -> Option<usize> {
        self.instructions[index].label.and_then(|label| self.labels.get(label)).copied()
    }

    /// From the begin of each loop to behind the branch to it.
    pub fn loops(&self) -> Vec<Range<usize>> {
        let ends = 0..self.instructions.len();
        ends.filter_map(|end| Some(self.target(end).filter(|begin| *begin <= end)?..end + 1)).collect()
    }

    /// Instructions of a part whose opcodes begin with `start`.
    pub fn count(&self, part: &Range<usize>, start: &str) -> usize {
        self.instructions[part.clone()].iter().filter(|one| one.opcode.starts_with(start)).count()
    }

    /// The opcodes of the shortest way round a loop that has `count` instructions whose opcodes begin with `start`.
    pub fn round(&self, around: &Range<usize>, start: &str, count: usize) -> Option<Vec<&'a str>> {
        let Range { start: begin, end: behind } = *around;
        let is_counted = |index: usize| usize::from(self.instructions[index].opcode.starts_with(start));
        // For each instruction and number of those counted before it: the shortest way there from the loop's begin, as its length
        // and the instruction before. Branches backward inside are loops of their own, which the shortest way does not enter.
        let mut ways = vec![vec![None::<(usize, usize)>; count + 1]; behind - begin];
        ways[0][0] = Some((0, begin));
        let mut shortest: Option<(usize, usize)> = None;
        for index in begin..behind {
            for after in is_counted(index)..=count {
                let Some((length, _)) = ways[index - begin][after - is_counted(index)] else { continue };
                if self.target(index) == Some(begin) && after == count {
                    let way = (length + 1, index);
                    shortest = Some(shortest.map_or(way, |known| known.min(way)));
                }
                let next = Some(index + 1).filter(|_| self.instructions[index].falls_through);
                for next in self.target(index).into_iter().chain(next).filter(|next| (index + 1..behind).contains(next))
                {
                    let way = &mut ways[next - begin][after];
                    if way.is_none_or(|(known, _)| known > length + 1) {
                        *way = Some((length + 1, index));
                    }
                }
            }
        }
        let (length, mut index) = shortest?;
        let mut left = count - is_counted(index);
        let mut opcodes = vec![self.instructions[index].opcode];
        while index != begin {
            (_, index) = ways[index - begin][left]?;
            opcodes.push(self.instructions[index].opcode);
            left -= is_counted(index);
        }
        assert_eq!(opcodes.len(), length);
        opcodes.reverse();
        Some(opcodes)
    }
}

fn instruction(text: &str) -> Instruction<'_> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (predicated, opcode) = match first.strip_prefix('@') {
        Some(_) => (true, words.next().unwrap_or_default()),
        None => (false, first),
    };
    let label = text.split_once("`(").and_then(|(_, rest)| rest.split_once(')')).map(|(label, _)| label);
    let jumps = opcode.starts_with("BRA");
    // Besides the predicate in front, a branch may have one among its operands.
    let conditional = predicated || jumps && words.next().is_some_and(|operand| !operand.starts_with('`'));
    let leaves = jumps || ["EXIT", "RET"].iter().any(|end| opcode.starts_with(end));
    Instruction { opcode, falls_through: conditional || !leaves, label: label.filter(|_| jumps) }
}

/// Holds `docs/blackwell.md` to what the test file `by` has counted, or writes it there.
pub fn published(by: &str, counted: &str) {
    const END: &str = "<!-- end of what is counted -->\n";
    let begin = format!("<!-- counted by {by} -->\n");
    let path = root().join("docs/blackwell.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{} lacks {begin}", path.display()));
    let (published, after) = rest.split_once(END).unwrap_or_else(|| panic!("{} lacks {END}", path.display()));
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        let text = format!("{before}{begin}{counted}{END}{after}");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert_eq!(published, counted, "by rustc {}; BLESS=1 writes what is counted", BUILT.compiler.release);
    }
}
