//! `/proc/PID/net`: what a machine with the loopback interface and no other shows.

use super::Target;
use super::table::{Kind, Row, Scope};
use crate::error::Result;
use crate::fs::pseudo::{Out, put};
use crate::task::Cx;

type Show = fn(&Cx, &Target, &mut Out) -> Result<()>;

const fn file(name: &'static str, show: Show) -> Row {
    Row { name, mode: 0o444, scope: Scope::Both, kind: Kind::Text(show) }
}

/// The files of the directory.
pub(super) static FILES: &[Row] = &[
    file("arp", arp),
    file("dev", dev),
    file("if_inet6", empty),
    file("netlink", netlink),
    file("packet", packet),
    file("protocols", protocols),
    file("raw", tcp),
    file("raw6", tcp6),
    file("route", route),
    file("ipv6_route", empty),
    file("snmp", empty),
    file("netstat", empty),
    file("sockstat", sockstat),
    file("tcp", tcp),
    file("tcp6", tcp6),
    file("udp", udp),
    file("udp6", udp6),
    file("unix", unix),
];

fn empty(_cx: &Cx, _target: &Target, _out: &mut Out) -> Result<()> {
    Ok(())
}

fn text(out: &mut Out, text: &str) -> Result<()> {
    out.text(text);
    Ok(())
}

fn arp(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    text(out, "IP address       HW type     Flags       HW address            Mask     Device\n")
}

fn dev(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    out.text("Inter-|   Receive                                                |  Transmit\n");
    out.text(" face |bytes    packets errs drop fifo frame compressed multicast");
    out.text("|bytes    packets errs drop fifo colls carrier compressed\n");
    out.text("    lo:       0       0    0    0    0     0          0         0");
    text(out, "        0       0    0    0    0     0       0          0\n")
}

fn netlink(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    text(out, "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n")
}

fn packet(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    text(out, "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n")
}

fn protocols(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    out.text("protocol  size sockets  memory press maxhdr  slab module     ");
    out.text("cl co di ac io in de sh ss gs se re bi br ha uh gp em\n");
    out.text("UNIX      1024      0      -1   NI       0   yes  kernel      ");
    text(out, "y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n\n")
}

fn route(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    let start = out.0.len();
    out.text("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT");
    out.pad_to(start, 127);
    text(out, "\n")
}

fn sockstat(cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    put!(out, "sockets: used {}\n", cx.kernel.net.unix.list().len());
    out.text("TCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\n");
    text(out, "UDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n")
}

fn tcp(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    let start = out.0.len();
    out.text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
    );
    out.pad_to(start, 149);
    text(out, "\n")
}

fn tcp6(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    out.text(
        "  sl  local_address                         remote_address                        st tx_queue ",
    );
    text(out, "rx_queue tr tm->when retrnsmt   uid  timeout inode\n")
}

fn udp(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    let start = out.0.len();
    out.text(
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
    );
    out.text(" ref pointer drops");
    out.pad_to(start, 127);
    text(out, "\n")
}

fn udp6(_cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    out.text(
        "  sl  local_address                         remote_address                        st tx_queue ",
    );
    text(out, "rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n")
}

fn unix(cx: &Cx, _target: &Target, out: &mut Out) -> Result<()> {
    out.text("Num       RefCount Protocol Flags    Type St Inode Path\n");
    for socket in cx.kernel.net.unix.list() {
        // Kernel addresses are hidden from everyone, so the first column is 0.
        let flags = if socket.listening { 0x10000 } else { 0 };
        let state = if socket.connected { 3 } else { 1 };
        let kind = socket.kind as u32;
        put!(out, "{:016x}: {:08X} {:08X} {flags:08X} {kind:04X} {state:02X} {:>5}", 0, 2, 0, socket.ino);
        if let Some(name) = &socket.name {
            out.text(" ");
            out.bytes(name);
        }
        out.text("\n");
    }
    Ok(())
}
