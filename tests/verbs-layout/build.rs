//! Compiles `header.c`.

fn main() {
    println!("cargo::rerun-if-changed=header.c");
    cc::Build::new().file("header.c").warnings_into_errors(true).compile("header");
}
