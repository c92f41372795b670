//! Loops compiled for several instruction sets; the best one that the processor supports is chosen at run time.

use pulp::NullaryFnOnce;

/// Runs `work`, compiled for AVX-512 or AVX2 if the processor supports it. Functions called by `work` are compiled for
/// it only if they are inlined. Products and sums are not fused, so that every processor gives the same bits.
pub fn vectorized<W: NullaryFnOnce>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(work);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(work);
        }
    }
    work.call()
}
