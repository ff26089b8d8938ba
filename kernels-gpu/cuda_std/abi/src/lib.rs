//! `#[nvvm_internal]` for rustc's own PTX backend.
//!
//! `cuda_std_macros::kernel` expands to `#[nvvm_internal(kernel(..))] extern "C" fn`, an attribute that only
//! rustc_codegen_nvvm knows. Here it turns the ABI string into `"ptx-kernel"`, which is how rustc marks an entry.
use proc_macro::{Literal, TokenStream, TokenTree};

/// Turns the first ABI string after `extern` into `"ptx-kernel"`.
#[proc_macro_attribute]
pub fn nvvm_internal(_args: TokenStream, item: TokenStream) -> TokenStream {
    let (mut after_extern, mut done) = (false, false);
    item.into_iter()
        .map(|token| match &token {
            TokenTree::Ident(ident) if ident.to_string() == "extern" => {
                after_extern = true;
                token
            }
            TokenTree::Literal(_) if after_extern && !done => {
                done = true;
                Literal::string("ptx-kernel").into()
            }
            _ => token,
        })
        .collect()
}
