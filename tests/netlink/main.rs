//! The netlink room against the real kernel, in network namespaces of its own.

mod conntrack;
mod namespace;
mod route;
mod sock_diag;
mod subscription;
mod world;
