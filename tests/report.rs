//! `qkv report` on the repository's records and on made-up lines: the figure, the page, and a run held against a record.
use roxmltree::Document;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Decode of 2026-11-23: 30 cases of ours, of two other libraries, and the run's ceilings.
const DECODE: &str = "h100-2026-11-23/peers.json";

/// Prefill of 2026-11-27, without ceilings; other libraries have no line of head dimension 512.
const PREFILL: &str = "h100-2026-11-27/prefill.json";

fn record(name: &str) -> String {
    format!("{}/benches/record/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A folder of a test's own.
fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qkv")).arg("report").args(arguments).output().expect("the program runs")
}

/// Writes lines, and gives their file.
fn file(folder: &Path, name: &str, lines: &[&str]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, lines.join("\n")).expect("a file");
    path.to_str().expect("a path").to_owned()
}

/// What a report wrote.
struct Written {
    svg: String,
    page: String,
    /// Width, height, and the bytes of RGBA.
    png: (u32, u32, Vec<u8>),
}

fn written(name: &str, arguments: &[&str]) -> Written {
    let folder = folder(name).join("out");
    let output = report(&[arguments, &["--out", folder.to_str().expect("a path")]].concat());
    assert!(output.status.success(), "{output:?}");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file of the report");
    let text = |name: &str| String::from_utf8(read(name)).expect("text");
    let mut png = png::Decoder::new(std::io::Cursor::new(read("roofline.png"))).read_info().expect("a PNG");
    let mut pixels = vec![0; png.output_buffer_size().expect("a size")];
    let info = png.next_frame(&mut pixels).expect("pixels");
    assert_eq!(info.color_type, png::ColorType::Rgba);
    Written { svg: text("roofline.svg"), page: text("index.html"), png: (info.width, info.height, pixels) }
}

/// The texts of a figure.
fn texts(svg: &Document<'_>) -> Vec<String> {
    let texts = svg.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or_default().trim().to_owned()).collect()
}

/// The cells of the page's row that has all of these, as text.
fn row(page: &str, has: &[&str]) -> Vec<String> {
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("<tr><td")).collect();
    let found: Vec<&&str> = rows.iter().filter(|row| has.iter().all(|text| row.contains(text))).collect();
    assert_eq!(found.len(), 1, "{has:?} in\n{}", rows.join("\n"));
    let cells = found[0].trim_end_matches("</tr>").split("<td").skip(1);
    cells.map(|cell| cell.split_once('>').expect("a cell").1.to_owned()).collect()
}

#[test]
fn a_record_s_numbers_are_on_the_page() {
    let written = written("decode", &["--ours", &record(DECODE), "--peers", &record(DECODE)]);
    // 7.287 us, 287.8 of 3087.6 GB/s; 8.855 and 9.9 us; err 2.78e-3.
    let cells = row(&written.page, &["gpt-oss", ">1 \u{d7} 1024"]);
    assert_eq!(cells[..7], ["gpt-oss", "1 \u{d7} 1024", "bf16", "7.3", "288", "9.3 %", "2.8e-3"]);
    assert_eq!((cells[7].as_str(), cells[9].as_str()), ("8.9", "1.22"));
    let cells = row(&written.page, &["gemma4-31b-global", ">128 \u{d7} 1024"]);
    assert_eq!((cells[3].as_str(), cells[7].as_str(), cells[9].as_str()), ("387.2", "367.3", "0.95"));
    assert_eq!(written.page.matches("<tr><td").count(), 30);
    // As the README has them, which were worked out by another program.
    assert!(written.page.contains("1.060; the least: 0.949; 30 cases"), "{}", written.page);
    assert!(written.page.contains("Ceiling of read: 3088 GB/s."));
    assert!(written.page.contains("<h1>qkv on NVIDIA H100 80GB HBM3</h1>"));
}

#[test]
fn the_figure_is_an_svg_and_a_png_of_twice_its_size() {
    let written = written("figure", &["--ours", &record(DECODE), "--peers", &record(DECODE)]);
    let svg = Document::parse(&written.svg).expect("an SVG that parses");
    assert!(written.page.contains(&written.svg));
    let size = ["width", "height"].map(|side| {
        let side = svg.root_element().attribute(side).and_then(|side| side.parse::<u32>().ok());
        side.expect("a number of pixels")
    });
    let (width, height, pixels) = &written.png;
    assert_eq!([*width, *height], size.map(|side| 2 * side));
    let texts = texts(&svg);
    for text in ["flashinfer", "vllm-triton", "ceiling: read, 3088 GB/s", "gemma4-12b-global", "9 %", "99 %", "3000"] {
        assert!(texts.iter().any(|one| one == text), "no {text:?} in {texts:?}");
    }
    // Ours are filled circles: one a case, and one of the legend.
    let filled =
        svg.descendants().filter(|node| node.has_tag_name("circle") && node.attribute("fill") == Some("#0B5CAD"));
    assert_eq!(filled.count(), 31);
    // Words are in the PNG too, which no font of the machine's is looked for: the title's box has dark pixels.
    let dark = |x: u32, y: u32| pixels[4 * (y * width + x) as usize] < 128;
    let letters = (30..70).flat_map(|y| (30..600).map(move |x| (x, y))).filter(|&(x, y)| dark(x, y)).count();
    assert!((500..10_000).contains(&letters), "{letters} dark pixels");
}

#[test]
fn a_case_without_a_peer_or_a_ceiling_is_there_all_the_same() {
    let written = written("prefill", &["--ours", &record(PREFILL), "--peers", &record(PREFILL)]);
    let cells = row(&written.page, &["gemma4-31b-global", ">8 \u{d7} 1024", "bf16, causal"]);
    let dash = "\u{2013}";
    assert_eq!((cells[5].as_str(), &cells[7..]), (dash, &[dash, dash, dash].map(str::to_owned)[..]));
    let cells = row(&written.page, &["gpt-oss", ">8 \u{d7} 1024", "bf16, full"]);
    // 304.7 us, 451.1 TFLOP/s; 308.8 us.
    assert_eq!((cells[3].as_str(), cells[4].as_str(), cells[7].as_str()), ("304.7", "451", "308.8"));
    assert_eq!(written.page.matches("<tr><td").count(), 24);
    let with = ["--ours", &record(PREFILL), "--ceiling", "gemm-bf16=800"];
    let cells = row(&self::written("ceiling", &with).page, &["gpt-oss", ">8 \u{d7} 1024", "bf16, full"]);
    assert_eq!((cells[5].as_str(), cells.len()), ("56.4 %", 7));
}

/// Lines of 2026-11-25 have neither bytes nor shapes: those of the other libraries' lines, where they are of the same model.
#[test]
fn older_lines_have_rates_by_the_shapes_of_others() {
    let older = record("h100-2026-11-25/decode.txt");
    let cells = |arguments: &[&str], kv: &str| {
        let page = written(&format!("older-{}-{kv}", arguments.len()), arguments).page;
        row(&page, &["<td class=\"w\">gpt-oss<", ">1 \u{d7} 1024", &format!(">{kv}<")])[3..6].to_vec()
    };
    // 2 x 1024 x 8 x 64 elements of 2 bytes in 7.463 us, of 4.5 bits in 8.077.
    let with = ["--ours", &older, "--peers", &record(DECODE)];
    assert_eq!(cells(&with, "bf16"), ["7.5", "281", "9.1 %"]);
    assert_eq!(cells(&with, "nvfp4"), ["8.1", "73", "2.4 %"]);
    assert_eq!(cells(&with[..2], "bf16"), ["7.5", "\u{2013}", "\u{2013}"]);
}

#[test]
fn an_error_is_shown_and_words_stay_words() {
    let folder = folder("words");
    let ours = [
        "# what a log has between",
        r#"{"kind": "ceiling", "name": "read", "gbps": 3000.0}"#,
        r#"{"kind": "decode", "name": "qkv", "model": "<b>&\"m'", "b": 1, "s": 10, "kv": "bf16", "us": 2.0, "bytes": 3000000}"#,
        r#"{"kind": "error", "of": "append", "name": "qkv", "model": "x\u0001", "b": 1, "s": 10, "error": "no <kernel> & why"}"#,
    ];
    let theirs = r#"{"kind": "error", "name": "o<i>", "model": "<b>&\"m'", "b": 1, "s": 10, "kv": "bf16", "error": "their <own>"}"#;
    let (ours, theirs) = (file(&folder, "ours.txt", &ours), file(&folder, "peers.txt", &[theirs]));
    let written = written("words", &["--ours", &ours, "--peers", &theirs]);
    let cells = row(&written.page, &["&lt;b&gt;&amp;&quot;m&#39;"]);
    // 3 MB in 2 us are 1500 GB/s.
    assert_eq!((cells[4].as_str(), cells[5].as_str(), cells[7].as_str()), ("1500", "50.0 %", "their &lt;own&gt;"));
    let cells = row(&written.page, &["no &lt;kernel&gt; &amp; why"]);
    assert_eq!(cells.len(), 4);
    assert!(written.page.contains("<h2>append</h2>") && written.page.contains("<th>o&lt;i&gt;, "));
    assert!(!written.page.contains("<b>") && !written.page.contains("<i>"), "{}", written.page);
    let svg = Document::parse(&written.svg).expect("an SVG that parses");
    let texts = texts(&svg);
    for text in ["<b>&\"m'", "no <kernel> & why", "x\u{fffd}", "o<i>", "error"] {
        assert!(texts.iter().any(|one| one == text), "no {text:?} in {texts:?}");
    }
}

#[test]
fn files_that_are_none_are_named() {
    let folder = folder("none");
    let out = folder.join("out");
    let out = out.to_str().expect("a path");
    for (name, lines, said) in [
        ("empty.txt", &["nothing"][..], "empty.txt: not a file of measurements: no line of a case or ceiling"),
        ("broken.txt", &["", "{"], "broken.txt: not a file of measurements: line 2: "),
        ("types.txt", &[r#"{"kind": "decode", "us": "fast"}"#], "not a file of measurements: invalid type: string"),
    ] {
        let output = report(&["--ours", &file(&folder, name, lines), "--out", out]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && words.contains(said), "{words}");
    }
    let output = report(&["--ours", &record(DECODE), "--ceiling", "fast=1", "--out", out]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NAME being one of read, copy, gemm-bf16, gemm-e4m3"));
    let output = report(&["--ours", &record(DECODE), "--out", &record(DECODE)]);
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("peers.json: "));
}

#[test]
fn a_run_is_held_against_a_record() {
    let (folder, decode) = (folder("against"), record(DECODE));
    let same = report(&["--ours", &decode, "--against", &decode]);
    let table = String::from_utf8_lossy(&same.stdout).into_owned();
    assert!(same.status.success() && table.contains("30 cases, 0 failed"), "{table}");
    assert!(table.contains("+0.0 %  ok"), "{table}");
    // One time a tenth longer, one line gone.
    let text = std::fs::read_to_string(&decode).expect("a record");
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("lines");
    let ours: Vec<usize> = (0..rows.len()).filter(|&i| rows[i]["name"] == "qkv").collect();
    let slow = &mut rows[ours[3]];
    slow["gbps"] = (slow["gbps"].as_f64().expect("a rate") / 1.1).into();
    rows.remove(ours[29]);
    let changed = file(&folder, "changed.json", &[&serde_json::Value::from(rows).to_string()]);
    let output = report(&["--ours", &changed, "--against", &decode]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{table}");
    let line = |has: &str| table.lines().find(|line| line.contains(has)).expect("a line of the table").to_owned();
    let slower = line("gpt-oss 64 \u{d7} 4096 bf16");
    assert!(slower.contains("-9.1 %  FAIL: slower"), "{slower}");
    assert!(line("gemma4-12b-global 128 \u{d7} 1024 bf16").ends_with("FAIL: missing"), "{table}");
    assert!(table.contains("30 cases, 2 failed"), "{table}");
    // A faster card would hide it, if it were not for the ceiling.
    let output = report(&["--ours", &decode, "--against", &decode, "--ceiling", "read=3300"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && table.contains("30 cases, 30 failed"), "{table}");
}
