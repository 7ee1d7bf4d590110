//! Which decisions are recorded, by request id alone.

/// Whether request `request_id` is among `ppm` of a million: the 64-bit FNV-1a hash of its bytes, mixed once more by the
/// finalizer of SplitMix64 (ids that differ in their last letter differ in few bits of FNV's upper half), scaled to a
/// million.
pub fn is_sampled(request_id: &str, ppm: u32) -> bool {
    const MILLION: u128 = 1_000_000;
    if u128::from(ppm) >= MILLION {
        return true;
    }
    let hash = request_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (u128::from(mixed) * MILLION) >> 64 < u128::from(ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_ids_is_chosen_and_always_the_same_ones() {
        let ids: Vec<String> = (0..20_000_u128).map(|n| ulid::Ulid(n << 3).to_string()).collect();
        let chosen = |ppm: u32| ids.iter().filter(|id| is_sampled(id, ppm)).collect::<Vec<_>>();
        let tenth = chosen(100_000);
        assert!((1_800..2_200).contains(&tenth.len()), "{}", tenth.len());
        assert_eq!(tenth, chosen(100_000));
        // Who is in a smaller sample is in every larger one.
        let half = chosen(500_000);
        assert!(tenth.iter().all(|id| half.contains(id)));
        assert_eq!((chosen(0).len(), chosen(1_000_000).len()), (0, ids.len()));
    }
}
