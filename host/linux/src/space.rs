//! Address spaces: the kernel's view of the `vmspace` crate.

use crate::cpu::LinuxCpus;
use crate::ram::LinuxRam;
use hal::{Regs, SpaceError, UserContext, VmSpace};
use std::any::Any;
use std::sync::Arc;

/// Makes address spaces.
pub(crate) struct Spaces;

impl Spaces {
    /// The error is a line for the user.
    pub(crate) fn new(_ram: &LinuxRam) -> Result<Spaces, String> {
        Ok(Spaces)
    }
    pub(crate) fn create(&self, _cpus: &Arc<LinuxCpus>) -> Result<Arc<dyn VmSpace>, SpaceError> {
        Err(SpaceError::Dead("this machine cannot run guests yet".to_string()))
    }
    pub(crate) fn context(&self) -> Box<dyn UserContext> {
        Box::new(LinuxContext { regs: Regs::default() })
    }
    pub(crate) fn user_limit(&self) -> u64 {
        0x7fff_ff00_0000
    }
    pub(crate) fn vdso(&self) -> Option<u64> {
        None
    }
    pub(crate) fn fpu_size(&self) -> usize {
        0
    }
    pub(crate) fn shutdown(&self) {}
}

struct LinuxContext {
    regs: Regs,
}

impl UserContext for LinuxContext {
    fn set_syscall_result(&mut self, value: u64) {
        self.regs.rax = value;
    }
    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }
    fn fpu(&mut self) -> Vec<u8> {
        Vec::new()
    }
    fn set_fpu(&mut self, _image: &[u8]) {}
    fn duplicate(&mut self) -> Box<dyn UserContext> {
        Box::new(LinuxContext { regs: self.regs })
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
