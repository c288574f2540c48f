//! What the linker has to be told for a Worker.

fn main() {
    // Stripping takes the names of all functions, which are a tenth of what a cold start loads. wasm-bindgen has to be left
    // the one section from which it learns what the module may use. Elsewhere this crate is empty.
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        println!("cargo::rustc-link-arg-cdylib=--keep-section=target_features");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
