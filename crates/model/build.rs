//! Compiles the domain with its mutants: only here, never in the product.

fn main() {
    println!("cargo::rustc-cfg=quorate_mutants");
}
