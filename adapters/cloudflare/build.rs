//! What the linker has to be told for a Worker.

fn main() {
    // Stripping takes the names of all functions, which are a tenth of what a cold start loads. wasm-bindgen has to be left
    // the one section from which it learns what the module may use.
    println!("cargo::rustc-link-arg-cdylib=--keep-section=target_features");
    println!("cargo::rerun-if-changed=build.rs");
}
