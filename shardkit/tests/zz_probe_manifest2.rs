//! Probe.
use shardkit::manifest::Manifest;
#[test]
fn probe() {
    let head = "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\n";
    let kind = std::env::var("KIND").unwrap();
    let n: usize = std::env::var("N").unwrap().parse().unwrap();
    let text = match kind.as_str() {
        "dotted" => format!("{head}config.{}z = 1\n", "a.".repeat(n)),
        "header" => format!("{head}[component.a.config.{}z]\n", "a.".repeat(n)),
        "top" => format!("{}z = 1\n{head}", "a.".repeat(n)),
        "inline" => format!("{head}config = {{ {}z = 1 }}\n", "a.".repeat(n)),
        "nest" => format!("{head}config = {}1{}\n", "{a.b.c.d=".repeat(n), "}".repeat(n)),
        _ => format!("{head}config.x = {}{}\n", "[".repeat(n), "]".repeat(n)),
    };
    let start = std::time::Instant::now();
    let r = Manifest::parse(&text, "x.toml");
    println!("{kind} {n} {} bytes: {:?} {}", text.len(), start.elapsed(), r.map(|m| m.application().components[0].config_json.len().to_string()).unwrap_or_else(|e| e.what().to_owned()));
}
