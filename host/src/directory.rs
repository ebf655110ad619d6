//! Where branches are: plugins by name or by the addresses they own, everything else over HTTP or gRPC.

#[cfg(test)]
mod fuzz;

use std::{borrow::Cow, error::Error, sync::Arc};

use crate::{
    branch::{Branch, DataKey, Directory, NotFound, grpc, http},
    causes, hidden,
    plugin::{Registry, keyvalue_keys},
    saga::{BranchOp, Definition, Pin, Pins, text::cut},
};

/// The branches that this host can call.
pub struct Branches {
    plugins: Arc<Registry>,
    http: http::Client,
    grpc: grpc::Client,
}

impl Branches {
    /// Plugins first, then services.
    pub fn new(plugins: Arc<Registry>, http: http::Client, grpc: grpc::Client) -> Self {
        Self { plugins, http, grpc }
    }

    fn service(&self, saga: &Definition, target: &str) -> Result<Arc<dyn Branch>, NotFound> {
        let options = saga.options();
        if grpc::is_grpc_address(&options.protocol, target) {
            grpc::metadata(saga.gid(), &options.branch_headers).map_err(|error| not_found(&error))?;
            return Ok(Arc::new(self.grpc.branch(target).map_err(|error| not_found(&error))?));
        }
        http::headers(&options.branch_headers).map_err(|error| not_found(&error))?;
        Ok(Arc::new(self.http.branch(target).map_err(|error| not_found(&error))?))
    }
}

impl Directory for Branches {
    fn find(&self, saga: &Definition, branch_op: BranchOp, pin: Option<&Pin>) -> Result<Arc<dyn Branch>, NotFound> {
        match pin {
            Some(pin) => self.plugins.find(pin, branch_op.op).map_err(|lost| not_found(&lost)),
            None => self.service(saga, saga.target(branch_op)),
        }
    }

    fn pin(&self, saga: &Definition, branch_ops: &[BranchOp]) -> Result<Pins, (BranchOp, NotFound)> {
        let targets = branch_ops.iter().map(|branch_op| (*branch_op, saga.target(*branch_op)));
        let pins =
            self.plugins.pin_all(targets).map_err(|(branch_op, unresolved)| (branch_op, not_found(&unresolved)))?;
        let check = |branch_op: BranchOp| match pins.get(branch_op) {
            None => self.service(saga, saga.target(branch_op)).map(drop),
            Some(_) => match saga.steps().get(branch_op.step).map(|step| str::from_utf8(&step.payload)) {
                Some(Err(_)) => Err(NotFound("the payload is not UTF-8 text, which is all that a plugin takes".into())),
                _ => Ok(()),
            },
        };
        let checked =
            branch_ops.iter().try_for_each(|branch_op| check(*branch_op).map_err(|not_found| (*branch_op, not_found)));
        checked.inspect_err(|_| self.plugins.release(pins.components()))?;
        Ok(pins)
    }

    fn hold(&self, pins: &[Pin]) {
        self.plugins.hold(pins);
    }

    fn release(&self, pins: &[Pin]) {
        self.plugins.release(pins);
    }

    fn describe(&self, key: &[u8]) -> Option<DataKey> {
        let place = keyvalue_keys::place(key)?;
        let shown = |name: &str| String::from_utf8_lossy(&self.shown(name.as_bytes())).into_owned();
        Some(DataKey { owner: place.owner.to_owned(), bucket: shown(place.bucket), key: shown(place.key) })
    }

    fn shown<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        self.plugins.shown(data)
    }
}

/// Longest reason for which a branch is not found, in bytes: it may quote an address or the name of a header.
const NOT_FOUND_BYTES_MAX: usize = 1 << 10;

/// The error with all its causes, since the client gets no other information.
fn not_found(error: &dyn Error) -> NotFound {
    let reason = causes::in_one_line(error);
    NotFound(cut(&hidden::addresses(&reason), NOT_FOUND_BYTES_MAX).into_owned())
}
