//! Tells the binary where to find libtorch at run time, so that nobody needs LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Set by torch-sys (links = "tch") for its direct dependents only.
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    // First beside the binary, as an unpacked release has it, then where it was when this was built.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
