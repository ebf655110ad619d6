//! Sets of headers count as memory of the guest: the host holds them for it, without any grant.
//!
//! What is put into them counts until the attempt ends, also if the guest drops them: an attempt makes few requests, and
//! needs little for their headers.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    FieldMap, WasiHttpView,
    p2::bindings::http::types::{HeaderError, HostFields as _},
};

use crate::plugin::limits::Metered;

/// Bytes that a set has beside its headers, and a header beside its name and its value. Estimated from the size of the map
/// that holds them.
const OVERHEAD_BYTES: usize = 128;

/// Replaces those functions of `wasi:http/types` by which sets grow, in a linker that allows it.
pub fn add_to_linker<T: WasiHttpView + Metered + 'static>(linker: &mut Linker<T>, types: &str) -> wasmtime::Result<()> {
    let mut types = linker.instance(types)?;
    types.func_wrap("[constructor]fields", |mut store: StoreContextMut<T>, ()| {
        hold(&mut store, 0)?;
        Ok((store.data_mut().http().new()?,))
    })?;
    types.func_wrap(
        "[static]fields.from-list",
        |mut store: StoreContextMut<T>, (list,): (Vec<(String, Vec<u8>)>,)| {
            hold(&mut store, list.iter().map(|(name, value)| header(name.len(), value.len())).sum())?;
            let made = store.data_mut().http().from_list(list);
            Ok((made.map(Ok).or_else(|error| error.downcast().map(Err::<Resource<FieldMap>, HeaderError>))?,))
        },
    )?;
    types.func_wrap(
        "[method]fields.set",
        |mut store: StoreContextMut<T>, (fields, name, values): (Resource<FieldMap>, String, Vec<Vec<u8>>)| {
            hold(&mut store, values.iter().map(|value| header(name.len(), value.len())).sum())?;
            let done = store.data_mut().http().set(fields, name, values);
            Ok((done.map(Ok).or_else(|error| error.downcast().map(Err::<(), HeaderError>))?,))
        },
    )?;
    types.func_wrap(
        "[method]fields.append",
        |mut store: StoreContextMut<T>, (fields, name, value): (Resource<FieldMap>, String, Vec<u8>)| {
            hold(&mut store, header(name.len(), value.len()))?;
            let done = store.data_mut().http().append(fields, name, value);
            Ok((done.map(Ok).or_else(|error| error.downcast().map(Err::<(), HeaderError>))?,))
        },
    )?;
    types.func_wrap("[method]fields.clone", |mut store: StoreContextMut<T>, (fields,): (Resource<FieldMap>,)| {
        let copied = store.data_mut().http().table.get(&fields)?;
        let bytes = copied.iter().map(|(name, value)| header(name.as_str().len(), value.len())).sum();
        hold(&mut store, bytes)?;
        Ok((store.data_mut().http().clone(fields)?,))
    })
}

/// Bytes that a header counts for.
fn header(name: usize, value: usize) -> usize {
    name.saturating_add(value).saturating_add(OVERHEAD_BYTES)
}

/// Counts a set that grows by so many bytes.
fn hold<T: Metered>(store: &mut StoreContextMut<T>, bytes: usize) -> wasmtime::Result<()> {
    store.data_mut().meter().hold(bytes.saturating_add(OVERHEAD_BYTES))
}
