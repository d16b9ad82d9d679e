//! Compiles the domain with its mutants: only in tools, never in the product.

fn main() {
    println!("cargo::rustc-cfg=quorate_mutants");
    println!("cargo::rustc-cfg=quorate_sim");
}
