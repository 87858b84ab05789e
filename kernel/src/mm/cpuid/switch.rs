//! Where the jumps of a `switch` lead.
//!
//! Compilers make one of a table of distances from its own start: `cmp n, last ; ja default ; lea base, [rip + table] ; movsxd to, [base + 4 * n] ; add to, base ; jmp to`, where a mask may stand for
//! the comparison, and other instructions between these. It is understood where base and limit are known from the straight way to the jump, which nothing else leads into.

use super::super::functions::Elf;
use alloc::vec::Vec;
use core::ops::Range;
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess,
    OpKind, Register,
};

const ENTRY_LEN: usize = 4;
/// Entries of the longest table.
const MOST_ENTRIES: u64 = 1 << 12;

/// The switches of a function. Places are those in the code that is looked at.
pub(super) struct Switches {
    tables: Vec<Table>,
    /// The last instruction compared a register with this.
    compared: Option<(Register, u64)>,
    known: Vec<Known>,
    info: InstructionInfoFactory,
}

struct Table {
    start: u64,
    entries: u64,
    /// From where on it is known, up to the jump.
    way: Range<usize>,
}

/// What is known about a register after the instruction that ends at `from`.
#[derive(Clone, Copy)]
struct Known {
    register: Register,
    value: Value,
    from: usize,
}

#[derive(Clone, Copy)]
enum Value {
    Address(u64),
    AtMost(u64),
    /// What a table says.
    Entry {
        start: u64,
        entries: u64,
    },
    /// Where that leads.
    Target {
        start: u64,
        entries: u64,
    },
}

impl Switches {
    pub(super) fn new() -> Switches {
        let info = InstructionInfoFactory::new();
        Switches { tables: Vec::new(), compared: None, known: Vec::new(), info }
    }

    /// Takes the function's next instruction; `None` when it is not clear where it leads.
    pub(super) fn follow(&mut self, instruction: &Instruction) -> Option<()> {
        match instruction.flow_control() {
            FlowControl::Next => self.learn(instruction),
            FlowControl::ConditionalBranch => {
                if let (Mnemonic::Ja, Some((register, last))) = (instruction.mnemonic(), self.compared) {
                    self.know(register, Value::AtMost(last), instruction.next_ip() as usize);
                }
            }
            FlowControl::IndirectBranch => self.end(instruction)?,
            _ => self.known.clear(),
        }
        self.compared = compared(instruction);
        Some(())
    }

    fn learn(&mut self, instruction: &Instruction) {
        let (to, next) = (instruction.op0_register(), instruction.next_ip() as usize);
        let learnt = self.result(instruction);
        if !self.known.is_empty() {
            let info = self.info.info_options(instruction, InstructionInfoOptions::NO_MEMORY_USAGE);
            let written = info.used_registers().iter().filter(|used| used.access() != OpAccess::Read);
            for used in written {
                self.known.retain(|known| known.register != used.register().full_register());
            }
        }
        if let Some((value, from)) = learnt {
            self.know(to, value, from.unwrap_or(next));
        }
    }

    /// What the first operand holds then, and since where that is known, if not from now on.
    fn result(&self, instruction: &Instruction) -> Option<(Value, Option<usize>)> {
        match instruction.mnemonic() {
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                Some((Value::Address(instruction.ip_rel_memory_address()), None))
            }
            Mnemonic::And => {
                let mask = limit(instruction)?;
                Some((Value::AtMost(mask), None))
            }
            Mnemonic::Movsxd
                if instruction.memory_index_scale() as usize == ENTRY_LEN
                    && instruction.memory_displacement64() == 0 =>
            {
                let (address, index) =
                    (self.about(instruction.memory_base())?, self.about(instruction.memory_index())?);
                let (Value::Address(start), Value::AtMost(last)) = (address.value, index.value) else {
                    return None;
                };
                let value = Value::Entry { start, entries: last + 1 };
                Some((value, Some(address.from.min(index.from))))
            }
            Mnemonic::Add => {
                let (to, other) = (instruction.op0_register(), instruction.op1_register());
                let entry = |entry, base| match (self.about(entry)?, self.about(base)?.value) {
                    (&Known { value: Value::Entry { start, entries }, from, .. }, Value::Address(base))
                        if base == start =>
                    {
                        Some((Value::Target { start, entries }, Some(from)))
                    }
                    _ => None,
                };
                entry(to, other).or_else(|| entry(other, to))
            }
            _ => None,
        }
    }

    fn end(&mut self, instruction: &Instruction) -> Option<()> {
        let register = instruction.op0_register();
        let to_register = instruction.code() == Code::Jmp_rm64 && instruction.op0_kind() == OpKind::Register;
        let Known { value: Value::Target { start, entries }, from, .. } = *self.about(register)? else {
            return None;
        };
        self.tables.push(Table { start, entries, way: from..instruction.next_ip() as usize });
        self.known.clear();
        to_register.then_some(())
    }

    fn about(&self, register: Register) -> Option<&Known> {
        self.known.iter().find(|known| known.register == register)
    }

    /// Registers are whole ones: what is known of a part is true of the whole, because the upper half is cleared or not used.
    fn know(&mut self, register: Register, value: Value, from: usize) {
        let register = register.full_register();
        self.known.retain(|known| known.register != register);
        self.known.push(Known { register, value, from });
    }

    /// Adds where the tables lead; `None` when something else leads into the way to a jump. The code's first byte has the address `base`.
    pub(super) fn add_targets(&self, elf: &Elf<'_>, base: u64, targets: &mut Vec<usize>) -> Option<()> {
        for table in &self.tables {
            let len = table.entries as usize * ENTRY_LEN;
            let bytes = elf.content(base.wrapping_add(table.start), len)?;
            let distances = bytes.as_chunks::<ENTRY_LEN>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            targets
                .extend(distances.map(|distance| table.start.wrapping_add_signed(distance.into()) as usize));
        }
        let aside = |target: &usize| !self.tables.iter().any(|table| table.way.contains(target));
        targets.iter().all(aside).then_some(())
    }
}

/// The register that an instruction compares, and with what.
fn compared(instruction: &Instruction) -> Option<(Register, u64)> {
    let is_cmp = instruction.mnemonic() == Mnemonic::Cmp;
    Some((instruction.op0_register(), limit(instruction).filter(|_| is_cmp)?))
}

/// The second operand, where it may be the last number of an entry and the first one is a register of at least 32 bits.
fn limit(instruction: &Instruction) -> Option<u64> {
    let wide = instruction.op0_register().is_gpr32() || instruction.op0_register().is_gpr64();
    instruction.try_immediate(1).ok().filter(|&last| wide && last < MOST_ENTRIES)
}
