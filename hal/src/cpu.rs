//! Virtual CPUs.

use crate::CpuId;

/// The virtual CPUs of a machine.
pub trait Cpu: Send + Sync {
    /// How many there are; ids are `0..count`.
    fn count(&self) -> usize;
    /// The virtual CPU that executes the caller; `None` in interrupt context. Any context; never blocks; a few nanoseconds.
    fn current(&self) -> Option<CpuId>;
    /// Waits on `cpu` until it is interrupted or the monotonic clock reaches `deadline_ns`. An interrupt that came
    /// since the last return makes it return at once, so none is lost. Virtual CPU context; blocks; takes no
    /// CPU time meanwhile.
    fn idle(&self, cpu: CpuId, deadline_ns: Option<u64>);
    /// Makes [`crate::VmSpace::run`] or [`Cpu::idle`] on `cpu` return soon. Any context; never blocks.
    fn interrupt(&self, cpu: CpuId);
    /// The virtual CPU that gets more done with the host CPU of `cpu`, which is idle: work for `cpu` would take it away. Any context; never blocks.
    fn lent_to(&self, _cpu: CpuId) -> Option<CpuId> {
        None
    }
    /// Has `cpu` interrupted at this monotonic time; `None` cancels. One alarm per CPU, the last call
    /// counts. Virtual CPU context; does not block.
    fn set_alarm(&self, cpu: CpuId, deadline_ns: Option<u64>);
}
