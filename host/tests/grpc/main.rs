//! gRPC from end to end: a client, a host process, and a participant, with real HTTP/2 between them. The cases are those
//! of DTM's own tests (`saga_grpc_test.go`, `saga_grpc_barrier_test.go`), and what may be refused.

mod destinations;
mod participant;
mod refusals;
mod saga;
mod world;
