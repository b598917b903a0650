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
        "product" => format!("{head}config = {}1{}\n", format!("{{{}z=", "a.".repeat(75)).repeat(n), "}".repeat(n)),
        "nest" => format!("{head}config = {}1{}\n", "{a.b.c.d=".repeat(n), "}".repeat(n)),
        _ => format!("{head}config.x = {}{}\n", "[".repeat(n), "]".repeat(n)),
    };
    let start = std::time::Instant::now();
    let small = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
    let r = Manifest::parse(&text, "x.toml");
    if let Ok(m) = &r { println!("read back: {:?}", serde_json::from_str::<serde_json::Value>(&m.application().components[0].config_json).map(|_| ()).map_err(|e| e.to_string())); }
    println!("{kind} {n} {} bytes: {:?} {}", text.len(), start.elapsed(), r.map(|m| m.application().components[0].config_json.len().to_string()).unwrap_or_else(|e| e.what().to_owned()));
    }).unwrap();
    small.join().unwrap();
}
