//! One PTX module an entry, from the one module that the compiler writes.
//!
//! A driver compiles a whole module when it loads it: with one entry each, a program pays for the kernels that it uses.
//! A module gets the header, its entry, and the functions and variables that the entry reaches. Launch bounds are added
//! here too, because Rust has no attribute for them, and without them ptxas cannot know an entry's register budget.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// A statement or definition at the top level of a PTX module.
#[derive(Debug)]
struct Item<'a> {
    kind: Kind<'a>,
    text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// `.version`, `.target`, `.address_size`, and whatever belongs to no definition.
    Header,
    /// `.file N "…"`, which `.loc N` refers to.
    File(&'a str),
    /// `.section` of debug information; with line directives alone they are empty.
    Section,
    Entry(&'a str),
    /// A function or a variable.
    Named(&'a str),
}

/// The names of the entries of `module`, and each entry's own module.
///
/// # Errors
/// What was unexpected, in words.
pub(crate) fn split(module: &str) -> Result<BTreeMap<String, String>, String> {
    let items = items(module)?;
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        if let Kind::Named(name) = item.kind {
            named.entry(name).or_default().push(index); // a function may be declared before it is defined
        }
    }
    let mut modules = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let Kind::Entry(name) = item.kind else { continue };
        let kept = reach(index, &items, &named);
        if modules.insert(name.to_owned(), write(&items, &kept)).is_some() {
            return Err(format!("two entries are called {name}"));
        }
    }
    Ok(modules)
}

/// The items that `entry` uses, itself included.
fn reach(entry: usize, items: &[Item<'_>], named: &BTreeMap<&str, Vec<usize>>) -> BTreeSet<usize> {
    let (mut kept, mut open) = (BTreeSet::from([entry]), vec![entry]);
    while let Some(index) = open.pop() {
        for &used in words(items[index].text).filter_map(|word| named.get(word)).flatten() {
            if kept.insert(used) {
                open.push(used);
            }
        }
    }
    kept
}

fn write(items: &[Item<'_>], kept: &BTreeSet<usize>) -> String {
    let files: BTreeSet<&str> = kept.iter().flat_map(|&index| files_used(items[index].text)).collect();
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        let wanted = match item.kind {
            Kind::Header => true,
            Kind::Section => false,
            Kind::File(number) => files.contains(number),
            Kind::Entry(_) | Kind::Named(_) => kept.contains(&index),
        };
        if wanted {
            let _ = writeln!(text, "{}", item.text);
        }
    }
    text
}

/// The `N` of every `.loc N line column`.
fn files_used(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(".loc")?.split_whitespace().next())
}

/// `ptx` with launch bounds after the parameter list of `entry`: blocks of `threads`, `min_blocks` of them resident.
///
/// # Errors
/// Where the entry or its parameter list is not found.
pub(crate) fn with_bounds(ptx: &str, entry: &str, threads: u32, min_blocks: u32) -> Result<String, String> {
    let start = ptx.find(&format!(".entry {entry}(")).ok_or_else(|| format!("no entry {entry}"))?;
    let close = ptx[start..].find(')').ok_or_else(|| format!("{entry}: no end of the parameter list"))? + start + 1;
    let (head, tail) = ptx.split_at(close);
    Ok(format!("{head}\n.maxntid {threads}, 1, 1\n.minnctapersm {min_blocks}{tail}"))
}

/// `ptx` with the parameter of `entry` at a multiple of 64 if the code takes its address, which it does for the tensor maps in
/// it: rustc aligns no parameter to more than 16.
pub(crate) fn with_aligned_maps(ptx: &str, entry: &str) -> String {
    if !ptx.contains("cvta.param") {
        return ptx.to_owned();
    }
    ptx.replace(&format!(".param .align 16 .b8 {entry}_param_0["), &format!(".param .align 64 .b8 {entry}_param_0["))
}

/// Cuts a module into its top-level items; comments between them are dropped.
fn items(module: &str) -> Result<Vec<Item<'_>>, String> {
    let mut items = Vec::new();
    let mut rest = module.trim_start();
    while !rest.is_empty() {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
            continue;
        }
        let length = item_length(rest)?;
        let text = rest[..length].trim_end();
        items.push(Item { kind: kind(text)?, text });
        rest = rest[length..].trim_start();
    }
    Ok(items)
}

/// Bytes of the item that `text` begins with: a line for directives without an end mark, else up to the `;` or the
/// closing brace outside all braces.
fn item_length(text: &str) -> Result<usize, String> {
    const LINES: [&str; 4] = [".version", ".target", ".address_size", ".file"];
    if LINES.iter().any(|directive| text.starts_with(directive)) {
        return Ok(text.find('\n').unwrap_or(text.len()));
    }
    let (mut depth, mut initialiser, mut skip_until) = (0_u32, false, None);
    for (at, byte) in text.bytes().enumerate() {
        if let Some(end) = skip_until {
            if byte == end {
                skip_until = None;
            }
            continue;
        }
        match byte {
            b'/' if text[at..].starts_with("//") => skip_until = Some(b'\n'),
            b'"' => skip_until = Some(b'"'),
            b'=' if depth == 0 => initialiser = true,
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1).ok_or_else(|| unexpected("a closing brace without its opening", text))?;
                if depth == 0 && !initialiser {
                    return Ok(at + 1);
                }
            }
            b';' if depth == 0 => return Ok(at + 1),
            _ => {}
        }
    }
    Err(unexpected("an item without its end", text))
}

fn kind(text: &str) -> Result<Kind<'_>, String> {
    let mut tokens = text.split_whitespace();
    let first = tokens.next().unwrap_or_default();
    match first {
        ".version" | ".target" | ".address_size" | ".pragma" => return Ok(Kind::Header),
        ".section" => return Ok(Kind::Section),
        ".file" => {
            return tokens.next().map(Kind::File).ok_or_else(|| unexpected("a .file without number", text));
        }
        _ => {}
    }
    let signature = text.split(['{', '=', ';']).next().unwrap_or(text);
    if let Some((_, after)) = signature.split_once(".entry") {
        return words(after).next().map(Kind::Entry).ok_or_else(|| unexpected("an entry without name", text));
    }
    let name = if let Some((_, after)) = signature.split_once(".func") {
        // `.func (.param .b32 result) name(…)`: the result comes first, in parentheses of its own.
        let after = after.trim_start();
        let after = match after.strip_prefix('(') {
            Some(result) => result.split_once(')').map_or("", |(_, after)| after),
            None => after,
        };
        words(after).next()
    } else if [".global", ".const", ".shared", ".extern", ".visible", ".weak", ".common"].contains(&first) {
        words(signature.split('[').next().unwrap_or(signature)).last()
    } else {
        None
    };
    name.map(Kind::Named).ok_or_else(|| unexpected("an unknown item", text))
}

/// Identifiers, without directives' and registers' leading mark.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '$'))
}

fn unexpected(what: &str, text: &str) -> String {
    format!("{what}: {:?}", text.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{split, with_aligned_maps, with_bounds};

    const MODULE: &str = r#"//
// Generated by LLVM NVPTX Back-End
//
.version 8.0
.target sm_90a
.address_size 64

.extern .shared .align 1024 .b8 smem[];
.func (.param .b32 func_retval0) helper(.param .b32 helper_param_0);
.global .align 4 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
.global .align 8 .u64 pointer = other;
.global .align 4 .u32 other;
	// .globl	first
.visible .entry first(
	.param .align 8 .b8 first_param_0[16]
)
{
	.reg .b32 	%r<4>;
	.loc	2 7 0 // a } in a comment
	{ mov.u32 %r1, smem; }
	call.uni (retval0), helper, (param0);
	ret;
}
.visible .entry second()
{
	.loc	1 7 0
	mov.u64 %rd1, pointer;
	ret;
}
.func (.param .b32 func_retval0) helper(.param .b32 helper_param_0)
{
	ld.global.u32 %r1, [table];
	ret;
}
	.section	.debug_macinfo	{	}
	.file	1 "/one;.rs"
	.file	2 "/two.rs""#;

    #[test]
    fn an_entry_gets_what_it_reaches_and_nothing_else() {
        let modules = split(MODULE).unwrap();
        assert_eq!(modules.keys().collect::<Vec<_>>(), ["first", "second"]);
        let (first, second) = (&modules["first"], &modules["second"]);
        for kept in
            [".version 8.0\n.target sm_90a\n.address_size 64\n", "smem[]", "helper_param_0);", "table[8]", "two.rs"]
        {
            assert!(first.contains(kept), "{kept} of\n{first}");
        }
        assert_eq!(first.matches(".func").count(), 2, "the declaration and the definition");
        for dropped in ["second", "pointer", "one;.rs", ".section"] {
            assert!(!first.contains(dropped), "{dropped} in\n{first}");
        }
        assert!(second.contains("pointer = other;") && second.contains(".u32 other;"), "through a variable\n{second}");
        assert!(!second.contains("helper") && !second.contains("smem"));
    }

    #[test]
    fn bounds_follow_the_parameters() {
        let first = &split(MODULE).unwrap()["first"];
        let bounded = with_bounds(first, "first", 384, 2).unwrap();
        assert!(bounded.contains("first_param_0[16]\n)\n.maxntid 384, 1, 1\n.minnctapersm 2\n{"), "{bounded}");
        assert!(with_bounds(first, "fir", 1, 1).is_err(), "a name's beginning is not the name");
    }

    #[test]
    fn a_parameter_whose_address_is_taken_is_aligned_to_64() {
        let entry =
            |code: &str| format!(".entry maps(\n\t.param .align 16 .b8 maps_param_0[272]\n)\n{{\n\t{code}\n}}\n");
        let (taken, plain) = (entry("cvta.param.u64 %rd1, t;"), entry("ret;"));
        assert!(with_aligned_maps(&taken, "maps").contains(".param .align 64 .b8 maps_param_0[272]"));
        assert_eq!(with_aligned_maps(&plain, "maps"), plain);
    }

    #[test]
    fn what_is_not_ptx_is_refused() {
        assert!(split("hello").unwrap_err().contains("without its end"));
        assert!(split(".visible .entry a() { ret; ").unwrap_err().contains("without its end"));
        assert!(split("} ;").unwrap_err().contains("without its opening"));
        assert!(split("nonsense;").unwrap_err().contains("unknown item"));
    }
}
