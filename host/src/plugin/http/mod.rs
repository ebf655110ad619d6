//! Outgoing HTTP of plugins: `wasi:http/outgoing-handler`, behind the host's own rules and its own client.
//!
//! A request passes, in this order: the allow-list of the plugin's grants ([`rule`]), the limits of an attempt and the
//! headers that tell where it comes from ([`outgoing`], [`identity`]), the gate, which makes it known durably that the
//! attempt may have had an effect outside, and a connection to an address that was checked ([`client`], [`address`]).
//! Whatever was refused before the gate has had no effect. What follows the head of a request passes the gate again if the
//! guest has read something meanwhile ([`body`]).
//!
//! An attempt that is made again makes its requests again, under the same keys.
//!
//! Deliberately absent: redirects (the guest sees them and may ask again, under the same rules), proxies of the
//! environment, cookies, HTTP/2, and requests that go on when the attempt has ended.

pub mod address;
mod body;
mod client;
mod identity;
mod outgoing;
pub mod rule;

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

pub use self::{
    client::{Clients, Tls},
    identity::Identity,
    outgoing::Outgoing,
};

/// Bytes of the headers of one message, as the host holds them.
const FIELDS_BYTES_MAX: usize = 32 << 10;

/// Bytes of a method or an authority: longer ones are of no use, and each handle could hold one.
const NAME_BYTES_MAX: usize = 512;

/// Bytes of a path with its query: what servers take, as a rule.
const PATH_BYTES_MAX: usize = 8 << 10;

/// What the host keeps for the messages of one attempt.
pub fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(FIELDS_BYTES_MAX);
    context
}

/// Offers the interfaces, with a limit where theirs has none: a guest could make the host hold a text as long as its
/// memory in every request that it never sends.
pub fn add_to_linker<T: WasiHttpView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
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
