//! What must not compile: formats that differ between the parts of a request, tensors of no format, a launch without a
//! plan, and views, plans and workspaces used past their lives. `TRYBUILD=overwrite` renews the expected messages.
#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
