// Linear layers on a CPU with weights in 4 bits: y = x · wᵀ + bias.
//
// A weight is scale · multiplier · (number - 8), with a number of 4 bits, a multiplier of 4 bits for 32 inputs and a
// bfloat16 scale for 128, of each output. multiplier · (number - 8) fits in 8 bits, so that these are weights in 8 bits
// that take half of the memory: few rows of x meet them as they are widened, for many a panel is widened once. Both ways
// give the same bits. x (M, K) and y (M, N) are bfloat16 or float32; sums are float32. Needs AVX-512 with BW and VNNI.

#include "operators.h"
#include "tile_products.h"

namespace {

constexpr long PART = 32;                              // inputs that share a multiplier
constexpr long NUMBERS = GROUP / 2 * PANEL;            // bytes of a group's numbers
constexpr long BLOCK = NUMBERS + PANEL * sizeof(int);  // and of all that belongs to it
constexpr long FEW = 2 * ROWS;                         // rows that are multiplied while weights are widened

// The multipliers of a part of a group for 16 outputs, and what makes numbers in 8 bits, plus 128, of their products.
struct Widening {
  __m512i multiplier, offset;

  Widening(__m512i of_outputs, int part) {
    const __m512i four = _mm512_and_si512(_mm512_srli_epi32(of_outputs, 4 * part), _mm512_set1_epi32(15));
    multiplier = _mm512_or_si512(four, _mm512_slli_epi32(four, 16));
    const __m512i eight_times = _mm512_slli_epi32(multiplier, 3);
    const __m512i in_bytes = _mm512_or_si512(eight_times, _mm512_slli_epi16(eight_times, 8));
    offset = _mm512_sub_epi8(_mm512_set1_epi8((char)128), in_bytes);
  }

  // Numbers in the low halves of 64 bytes -> weights in 8 bits. A product is 15 · 15 at most: none reaches its neighbor.
  __m512i operator()(__m512i numbers) const {
    const __m512i low = _mm512_and_si512(numbers, _mm512_set1_epi8(15));
    return _mm512_add_epi8(_mm512_mullo_epi16(low, multiplier), offset);
  }
};

// A panel of weights in 4 bits: blocks of a group each, one after the other. A block has the numbers (GROUP / 8, PANEL, 4),
// of which the low halves of bytes are 4 inputs and the high halves the next 4, and then for each output 32 bits: the
// scale, and below it the multipliers of the 4 parts, the first one lowest.
struct FourBits {
  const uint8_t* blocks;

  __m512i of_outputs(long g, int n) const {
    return _mm512_loadu_si512(blocks + g * BLOCK + NUMBERS + n * sizeof(int));
  }

  __m512 scale(long g, int n) const {
    return _mm512_castsi512_ps(_mm512_and_si512(of_outputs(g, n), _mm512_set1_epi32(0xffff0000)));
  }

  // As of `EightBits`.
  template <int M>
  __attribute__((noinline)) void multiply(
      long g, const int8_t* x, long stride, const int* begin, long step, int* sums) const {
    const uint8_t* w = blocks + g * BLOCK;
    __m512i s[M][4];
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) s[m][v] = _mm512_set1_epi32(begin[m * step]);
#pragma GCC unroll 1
    for (long part = 0; part < GROUP / PART; part++) {
      const Widening widen[4] = {{of_outputs(g, 0), (int)part},
                                 {of_outputs(g, 16), (int)part},
                                 {of_outputs(g, 32), (int)part},
                                 {of_outputs(g, 48), (int)part}};
#pragma GCC unroll 1
      for (long k = part * PART; k < (part + 1) * PART; k += 8, w += 4 * PANEL) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
          const __m512i both = _mm512_loadu_si512(w + 64 * v);
          const __m512i low = widen[v](both), high = widen[v](_mm512_srli_epi16(both, 4));
          _mm_prefetch((const char*)(w + AHEAD + 64 * v), _MM_HINT_T0);
#pragma GCC unroll 6
          for (int m = 0; m < M; m++) {
            multiply_add(s[m][v], low, broadcast(x + m * stride + k));
            multiply_add(s[m][v], high, broadcast(x + m * stride + k + 4));
          }
        }
      }
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums + m * PANEL + 16 * v, s[m][v]);
  }
};

// A panel widened to 8 bits, in memory of the calling thread.
EightBits widened(const FourBits& panel, long groups) {
  static thread_local Scratch<uint8_t> numbers;
  static thread_local Scratch<float> scales;
  uint8_t* to = numbers.get(groups * GROUP * PANEL);
  float* scale = scales.get(groups * PANEL);
  for (long g = 0; g < groups; g++, scale += PANEL)
    for (int n = 0; n < PANEL; n += 16) {
      _mm512_store_ps(scale + n, panel.scale(g, n));
      const uint8_t* from = panel.blocks + g * BLOCK + 4 * n;
      uint8_t* out = to + g * GROUP * PANEL + 4 * n;
      for (int part = 0; part < GROUP / PART; part++) {
        const Widening widen(panel.of_outputs(g, n), part);
        for (int k = 0; k < PART; k += 8, from += 4 * PANEL, out += 8 * PANEL) {
          const __m512i both = _mm512_loadu_si512(from);
          _mm512_store_si512(out, widen(both));
          _mm512_store_si512(out + 4 * PANEL, widen(_mm512_srli_epi16(both, 4)));
        }
      }
    }
  return {to, scales.data};
}

template <typename Number>
void product(const Number* x, const uint8_t* w, const float* bias, Number* y, long M, long N, long K, long planes,
             int threads) {
  const auto panel_of = [=](long p, long groups) { return FourBits{w + p * groups * BLOCK}; };
  const auto widened_panel_of = [=](long p, long groups) { return widened(panel_of(p, groups), groups); };
  if (by_tiles(M * planes))
    tiled_quantized_product(x, widened_panel_of, bias, y, M, N, K, planes, threads);
  else if (M * planes <= FEW)
    quantized_product(x, panel_of, bias, y, M, N, K, planes, threads);
  else
    quantized_product(x, widened_panel_of, bias, y, M, N, K, planes, threads);
}

}  // namespace

extern "C" {

// w: (panels, groups, BLOCK). planes: 1 takes x in 8 bits, 2 in 16, with a scale for each group of a row. wide: x and y are
// float32, not bfloat16.
void int4_product(const void* x, const uint8_t* w, const float* bias, void* y, long M, long N, long K, long planes,
                  int wide, int threads) {
  if (wide)
    product((const float*)x, w, bias, (float*)y, M, N, K, planes, threads);
  else
    product((const Half*)x, w, bias, (Half*)y, M, N, K, planes, threads);
}
}
