//! What must not compile: formats that differ between the parts of a request, tensors of no format, a launch without a
//! plan, and views, plans and workspaces used past their lives. `TRYBUILD=overwrite` renews the expected messages.
#[test]
fn mistakes_do_not_compile() {
    // The library is built once more for these, and needs no kernels to be: they would take a minute.
    // SAFETY: the only test here, and no thread has begun that could read the environment meanwhile.
    unsafe { std::env::set_var("DOCS_RS", "1") };
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
