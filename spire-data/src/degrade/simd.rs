//! Loops compiled once for each instruction set, and the best that the processor has chosen at run time.

use pulp::NullaryFnOnce;

/// Runs `work`, compiled for AVX-512 or AVX2 where the processor has it. What `work` calls is compiled with it only where
/// it is inlined. Products and sums are not fused, so that every processor gives the same bits.
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
