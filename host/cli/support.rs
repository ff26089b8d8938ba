//! `qkv support`: the table of what is supported, as Markdown, from the same [`crate::support`] that plans ask.
use super::{CliError, Outcome, say};
use crate::support_table;

/// Prints the table.
///
/// # Errors
/// None.
pub fn run() -> Result<Outcome, CliError> {
    // The table ends its last line; an empty one follows.
    say(format_args!("{}", table()));
    say(format_args!(
        "Page sizes: powers of two from 1 to 1024. Query heads a KV head: 1 to 64. No window, soft cap or sinks yet."
    ));
    say(format_args!("The simulator runs every kernel."));
    Ok(Outcome::Ok)
}

/// The table.
pub fn table() -> String {
    let header = ["GPU", "head_dim", "q, output", "cache", "groups 1 to 16", "groups 17 to 64", "status"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(support_table().into_iter().map(|row| {
        [
            row.arch.to_string(),
            row.head_dim.to_string(),
            row.q.to_string(),
            row.kv.to_string(),
            row.few.to_string(),
            row.many.to_string(),
            row.status.to_string(),
        ]
    }));
    markdown(&rows)
}

/// Rows as a Markdown table, the first its header, columns padded to line up.
pub fn markdown<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = core::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let line = |cells: [String; N]| format!("| {} |\n", cells.join(" | "));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text += &line(core::array::from_fn(|i| format!("{:<width$}", row[i], width = widths[i])));
        if index == 0 {
            text += &line(core::array::from_fn(|i| "-".repeat(widths[i])));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_lines_up() {
        let rows = [["a", "bcd"], ["efgh", "i"]].map(|row| row.map(str::to_owned));
        assert_eq!(markdown(&rows), "| a    | bcd |\n| ---- | --- |\n| efgh | i   |\n");
    }

    #[test]
    fn the_table_has_every_decode_kernel() {
        let table = table();
        for entry in kernels_gpu::kernels::ENTRIES.iter().filter(|e| e.name.starts_with("decode_")) {
            assert!(table.contains(entry.name), "{} is missing", entry.name);
        }
        assert!(table.contains("assembled and simulated, not run"));
    }
}
