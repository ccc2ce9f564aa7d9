/* Which extension of the A64 instruction set an instruction needs, told from its 32 bits (Arm ARM DDI 0487, C4.1). Only
 * what ncnn has kernels for; MK_OTHER is the rest: integer code, branches, loads and stores of any register, scalar
 * float. Conversions between half and single precision are no half-precision arithmetic.
 */
#ifndef MOBILEKIT_ISA_H
#define MOBILEKIT_ISA_H

#include <stdint.h>

enum MkIsa { MK_OTHER, MK_NEON, MK_FP16, MK_FP16_CONVERT, MK_DOTPROD, MK_FHM, MK_BF16, MK_I8MM, MK_SVE, MK_ISA_COUNT };

static inline int mk_is(uint32_t word, uint32_t mask, uint32_t value) { return (word & mask) == value; }

static inline enum MkIsa mk_isa(uint32_t word) {
    if (mk_is(word, 0x1e000000u, 0x04000000u)) return MK_SVE;

    /* Advanced SIMD, bf16: BFMMLA, BFDOT and BFMLALB/T of vectors and by element, BFCVTN; BFCVT. */
    if (mk_is(word, 0xffe0fc00u, 0x6e40ec00u) || mk_is(word, 0xbf60fc00u, 0x2e40fc00u) ||
        mk_is(word, 0xbf40f400u, 0x0f40f000u) || mk_is(word, 0xbffffc00u, 0x0ea16800u) ||
        mk_is(word, 0xfffffc00u, 0x1e634000u))
        return MK_BF16;
    /* SMMLA, UMMLA, USMMLA; USDOT of vectors; USDOT and SUDOT by element. */
    if (mk_is(word, 0xdfe0fc00u, 0x4e80a400u) || mk_is(word, 0xffe0fc00u, 0x4e80ac00u) ||
        mk_is(word, 0xbfe0fc00u, 0x0e809c00u) || mk_is(word, 0xbf40f400u, 0x0f00f000u))
        return MK_I8MM;
    /* SDOT, UDOT of vectors and by element. */
    if (mk_is(word, 0x9fe0fc00u, 0x0e809400u) || mk_is(word, 0x9fc0f400u, 0x0f80e000u)) return MK_DOTPROD;
    /* FMLAL, FMLSL (and 2) of vectors and by element. */
    if (mk_is(word, 0xbf60fc00u, 0x0e20ec00u) || mk_is(word, 0xbf60fc00u, 0x2e20cc00u) ||
        mk_is(word, 0xbfc0b400u, 0x0f800000u) || mk_is(word, 0xbfc0b400u, 0x2f808000u))
        return MK_FHM;
    /* FCVTN and FCVTL between half and single; FCVT of a scalar to or from half. */
    if (mk_is(word, 0xbffffc00u, 0x0e216800u) || mk_is(word, 0xbffffc00u, 0x0e217800u) ||
        mk_is(word, 0xffbffc00u, 0x1e23c000u) || mk_is(word, 0xfffefc00u, 0x1ee24000u) ||
        mk_is(word, 0xfffffc00u, 0x1ee2c000u))
        return MK_FP16_CONVERT;
    /* Half precision: three registers; two; by element; across lanes; modified immediate. Scalars are written as vectors
     * with two more bits set. */
    const uint32_t simd = mk_is(word, 0xde000000u, 0x5e000000u) ? word & ~0x50000000u : word;
    if (mk_is(simd, 0x9f60c400u, 0x0e400400u) || mk_is(simd, 0x9f7e0c00u, 0x0e780800u) ||
        (mk_is(simd, 0x9fc00400u, 0x0f000000u) &&
         ((simd & 0xd000u) == 0x1000u || (simd & 0xd000u) == 0x5000u || (simd & 0xf000u) == 0x9000u)) ||
        mk_is(simd, 0xbf7fcc00u, 0x0e30c800u) || mk_is(simd, 0xbff8fc00u, 0x0f00fc00u))
        return MK_FP16;
    /* Scalar float of type half. */
    if (mk_is(word, 0x7e200000u, 0x1e200000u) && (word & 0x00c00000u) == 0x00c00000u) return MK_FP16;
    if (mk_is(word, 0xff000000u, 0x1f000000u) && (word & 0x00c00000u) == 0x00c00000u) return MK_FP16;

    /* Advanced SIMD on vectors. */
    return mk_is(word, 0x9e000000u, 0x0e000000u) ? MK_NEON : MK_OTHER;
}

#endif
