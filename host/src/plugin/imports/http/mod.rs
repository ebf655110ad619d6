//! Outgoing HTTP of plugins: `wasi:http/outgoing-handler`, behind the host's own rules and its own client.
//!
//! A request passes, in this order: the allow-list of the plugin's grants ([`rule`](crate::plugin::grants::rule)), the
//! limits of an attempt and the headers that identify it ([`outgoing`], [`identity`]), the output gate, which records
//! durably that the attempt may have had an effect outside, and a connection to a checked address ([`client`],
//! [`public_address`](crate::egress::public_address)). A request that is refused before the gate has had no effect. The body of a
//! request passes the gate again if the guest has read something since ([`body`]). What is refused or fails leaves a line that
//! says why ([`failure`]).
//!
//! A repeated attempt repeats its requests, with the same idempotency keys.
//!
//! Deliberately absent: redirects (the guest sees them and can follow them under the same rules), proxies of the
//! environment, cookies, HTTP/2, and requests that outlive their attempt.

mod body;
pub(crate) mod client;
mod failure;
mod fields;
pub(crate) mod identity;
pub(crate) mod outgoing;

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpView,
    p2::{
        add_only_http_to_linker_async,
        bindings::http::types::{HostOutgoingRequest as _, Method},
        types::HostOutgoingRequest,
    },
};

use crate::plugin::limits::Metered;

/// Bytes of the headers of one message in the host's memory.
const FIELDS_BYTES_MAX: usize = 32 << 10;

/// Bytes of a method or an authority: each handle could hold one.
const NAME_BYTES_MAX: usize = 512;

/// Bytes of a path with its query: what most servers accept.
const PATH_BYTES_MAX: usize = 8 << 10;

/// The interface as wasmtime implements it.
const TYPES: &str = "wasi:http/types@0.2.12";

/// The state of wasmtime's HTTP implementation for one guest.
pub fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(FIELDS_BYTES_MAX);
    context
}

/// Adds the interfaces to the linker, with limits on texts where wasmtime's implementation has none: otherwise each request
/// handle could hold a text as large as the guest's memory.
pub fn add_to_linker<T: WasiHttpView + Metered + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    fields::add_to_linker(linker, TYPES)?;
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<T>, (request, method): (Resource<HostOutgoingRequest>, Method)| match method {
            Method::Other(name) if name.len() > NAME_BYTES_MAX => Ok((Err(()),)),
            method => Ok((store.data_mut().http().set_method(request, method)?,)),
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<T>, (request, name): (Resource<HostOutgoingRequest>, Option<String>)| match name {
            Some(name) if name.len() > NAME_BYTES_MAX => Ok((Err(()),)),
            name => Ok((store.data_mut().http().set_authority(request, name)?,)),
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: StoreContextMut<T>, (request, path): (Resource<HostOutgoingRequest>, Option<String>)| match path {
            Some(path) if path.len() > PATH_BYTES_MAX => Ok((Err(()),)),
            path => Ok((store.data_mut().http().set_path_with_query(request, path)?,)),
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
