//! Slots of a cluster: CRC16 of the part of a key in braces.

/// The number of slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// The table of CRC16 with the polynomial 0x1021 (XMODEM).
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut crc = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// Returns the slot of a key. All keys of this crate have a tag in braces; see
/// [`Naming`](super::super::key_name::Naming).
pub(super) fn of_key(key: &[u8]) -> usize {
    usize::from(crc16(tag(key))) % SLOTS
}

/// Returns the part between the first `{` and the next `}`, or the whole key if that part is missing or empty.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        crc << 8 ^ TABLE[usize::from(crc.to_be_bytes()[0] ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::key_name::Naming;
    use super::*;
    use crate::key::Key;

    /// The check value of the CRC, and slots that `CLUSTER KEYSLOT` returns.
    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(of_key(b"foo"), 12_182);
        assert_eq!(of_key(b"{foo}:b"), 12_182);
        assert_eq!(
            of_key(b"{sluice:api:ralice}:b"),
            of_key(b"sluice:api:ralice")
        );
        assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(tag(b"foo{bar"), b"foo{bar");
    }

    #[test]
    fn keys_of_clients_spread_evenly_over_the_nodes() {
        const KEYS: u64 = 100_000;
        for nodes in [3, 6] {
            let mut counts = vec![0_u64; nodes];
            for key in 0..KEYS {
                let name = Naming::default().name("api", &Key::from(key));
                counts[of_key(&name) * nodes / SLOTS] += 1;
            }
            let mean = KEYS / nodes as u64;
            for count in counts {
                assert!(count.abs_diff(mean) * 20 < mean, "{count} of {mean}");
            }
        }
    }
}
