//! The host's state of one guest, and everything that a guest may import.

use std::sync::Arc;

use wasmtime::{
    Engine,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::scheduler::CpuMeter;
use crate::plugin::{
    imports::{
        http::{self, outgoing::Outgoing},
        keyvalue::{self, KeyValue},
        stdio::{self, Kind, Stdio},
    },
    limits::{Limits, MemoryMeter, Metered, Room},
};

/// The parts of a guest that its attempt makes.
pub struct Parts {
    pub stdio: Stdio,
    pub key_value: KeyValue,
    pub outgoing: Outgoing,
    pub cpu_meter: CpuMeter,
    pub room: Arc<Room>,
}

/// The host's state of one guest.
pub struct Guest {
    /// Before `table`, so that it is dropped first and closes the gate: unfinished bodies in the table are then not sent as
    /// if they were complete.
    outgoing: Outgoing,
    http: WasiHttpCtx,
    wasi: WasiCtx,
    table: ResourceTable,
    meter: MemoryMeter,
    key_value: KeyValue,
    /// Made when the guest first reads its configuration.
    config: Option<WasiConfigVariables>,
    stdio: Stdio,
    cpu_meter: CpuMeter,
}

/// Random bytes that a guest may ask for at a time; the host makes them without yielding.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

impl Guest {
    /// A guest without files, environment, arguments, input and sockets. The context starts empty; features that it would
    /// refuse only when they are used are switched off.
    pub fn new(parts: Parts, limits: &Limits) -> Self {
        let Parts { stdio, key_value, outgoing, cpu_meter, room } = parts;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let wasi = WasiCtx::builder()
            .stdout(stdio.stream(Kind::Output))
            .stderr(stdio.stream(Kind::Error))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Self {
            outgoing,
            http: http::context(),
            wasi,
            table,
            meter: MemoryMeter::new(limits, room),
            key_value,
            config: None,
            stdio,
            cpu_meter,
        }
    }

    /// The meter of memory and tables.
    pub fn meter(&self) -> &MemoryMeter {
        &self.meter
    }

    /// The same meter, which wasmtime asks before memory or a table grows.
    pub fn meter_mut(&mut self) -> &mut MemoryMeter {
        &mut self.meter
    }

    /// The meter of CPU time.
    pub fn cpu_meter(&self) -> &CpuMeter {
        &self.cpu_meter
    }

    fn config(&mut self) -> WasiConfig<'_> {
        let key_value = &self.key_value;
        WasiConfig::from(&*self.config.get_or_insert_with(|| key_value.grants().config().collect()))
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

impl Metered for Guest {
    fn meter(&mut self) -> &mut MemoryMeter {
        &mut self.meter
    }
}

impl keyvalue::View for Guest {
    fn key_value(&mut self) -> keyvalue::Host<'_> {
        keyvalue::Host { key_value: &self.key_value, table: &mut self.table }
    }
}

impl stdio::View for Guest {
    fn stdio(&mut self) -> &mut Stdio {
        &mut self.stdio
    }
}

/// Everything that guests may import.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, Guest::config)?;
    http::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    stdio::add_to_linker(&mut linker)?;
    Ok(linker)
}
