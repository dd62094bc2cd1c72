// Rows of x in 8 bits, and their products with panels of weights in 8 bits or fewer. Needs AVX-512 with VNNI.

#pragma once

#include "panels.h"

#include <omp.h>

#include <limits>
#include <vector>

namespace {

constexpr long CHUNK = 504;  // rows of x that meet a panel before the next panel is read: they stay in a cache
constexpr long GROUP = 128;  // numbers that share a scale

inline void multiply_add(__m512i& sum, __m512i weights, __m512i row) {
  // The intrinsic makes GCC 12 copy every sum before and after.
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(row));
}

// Rows of x in 8 bits. With two planes each row becomes two: its high and its low 8 of 16 bits, with a scale of their own.
struct Quantized {
  long planes, width, groups;
  bool in_tiles;
  std::vector<int8_t> numbers;  // (M * planes, width), or in tiles (M * planes / 16, width / 64, 16, 64), in whole ones
  std::vector<float> scales;    // (M * planes, groups)
  std::vector<int> begin;       // (M * planes, groups): weights are stored plus 128, which this takes back

  Quantized(long M, long K, long planes, bool in_tiles = false)
      : planes(planes), width((K + GROUP - 1) / GROUP * GROUP), groups(width / GROUP), in_tiles(in_tiles),
        numbers((M * planes + 15) / 16 * 16 * width), scales(M * planes * groups), begin(M * planes * groups) {}

  template <typename Number>
  void set(long m, const Number* x, long K) {
    for (long g = 0; g < groups; g++) set_group(m, g, x + g * GROUP, K - g * GROUP);
  }

  template <typename Number>
  void set_group(long m, long g, const Number* x, long count) {
    __m512 wide[GROUP / 16], largest = _mm512_set1_ps(std::numeric_limits<float>::min());
    __mmask16 not_a_number = 0;
    for (int i = 0; i < GROUP / 16; i++) {
      wide[i] = load(x + 16 * i, first(count - 16 * i));
      not_a_number |= _mm512_cmp_ps_mask(wide[i], wide[i], _CMP_UNORD_Q);
      largest = _mm512_max_ps(largest, _mm512_abs_ps(wide[i]));
    }
    float top = not_a_number ? std::numeric_limits<float>::quiet_NaN() : _mm512_reduce_max_ps(largest);
    float limit = planes == 1 ? 127 : 127 * 256 + 127;
    __m512 inverse = _mm512_set1_ps(limit / top);
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int i = 0; i < GROUP / 16; i++) {
      __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(wide[i], inverse)), high = value;
      if (planes == 2) {
        high = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
        __m512i low = _mm512_sub_epi32(value, _mm512_slli_epi32(high, 8));
        put(m * 2 + 1, g, i, low, sums[1]);
      }
      put(m * planes, g, i, high, sums[0]);
    }
    for (long p = 0; p < planes; p++) {
      long row = m * planes + p;
      scales[row * groups + g] = top / limit * (planes == 2 && p == 0 ? 256 : 1);
      begin[row * groups + g] = -128 * _mm512_reduce_add_epi32(sums[p]);
    }
  }

  void put(long row, long g, int i, __m512i values, __m512i& sum) {
    const long k = g * GROUP + 16 * i;
    const long at = in_tiles ? (row / 16 * width + k / 64 * 64) * 16 + row % 16 * 64 + k % 64 : row * width + k;
    _mm_storeu_si128((__m128i*)(numbers.data() + at), _mm512_cvtepi32_epi8(values));
    sum = _mm512_add_epi32(sum, values);
  }
};

// A panel of weights in 8 bits.
struct EightBits {
  const uint8_t* numbers;  // (width / 4, PANEL, 4), plus 128
  const float* scales;     // (groups, PANEL)

  // M rows of x times the group `g`; `sums` (M, PANEL) begin with `begin` and are integers.
  template <int M>
  __attribute__((noinline)) void multiply(
      long g, const int8_t* x, long stride, const int* begin, long step, int* sums) const {
    const uint8_t* w = numbers + g * GROUP * PANEL;
    __m512i s[M][4];
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) s[m][v] = _mm512_set1_epi32(begin[m * step]);
#pragma GCC unroll 1
    for (long k = 0; k < GROUP; k += 4, w += 4 * PANEL) {
      __m512i weights[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        weights[v] = _mm512_loadu_si512(w + 64 * v);
        if (M <= 2) _mm_prefetch((const char*)(w + AHEAD + 64 * v), _MM_HINT_T0);
      }
#pragma GCC unroll 6
      for (int m = 0; m < M; m++) {
        __m512i row = broadcast(x + m * stride + k);
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) multiply_add(s[m][v], weights[v], row);
      }
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums + m * PANEL + 16 * v, s[m][v]);
  }

  __m512 scale(long g, int n) const { return _mm512_loadu_ps(scales + g * PANEL + n); }
};

// One panel for M rows of 8 bits: sums (M / planes, PANEL) in float32.
template <int M, typename Panel>
void quantized_panel(const Quantized& x, long row, const Panel& panel, float* sums) {
  alignas(64) int whole[M * PANEL];
  std::fill(sums, sums + M / x.planes * PANEL, 0.0f);
  for (long g = 0; g < x.groups; g++) {
    long at = row * x.groups + g;
    const int8_t* from = x.numbers.data() + row * x.width + g * GROUP;
    panel.template multiply<M>(g, from, x.width, x.begin.data() + at, x.groups, whole);
    float* to = sums;
    for (int r = 0; r < M; r++) {
      __m512 scale = _mm512_set1_ps(x.scales[at + r * x.groups]);
#pragma GCC unroll 4
      for (int n = 0; n < PANEL; n += 16) {
        __m512 factor = _mm512_mul_ps(scale, panel.scale(g, n));
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(whole + r * PANEL + n));
        _mm512_storeu_ps(to + n, _mm512_fmadd_ps(sum, factor, _mm512_loadu_ps(to + n)));
      }
      if (x.planes == 1 || r % 2) to += PANEL;
    }
  }
}

// y = x · wᵀ + bias. panel_of(p, groups): the panel p of the weight, as the calling thread may use it until it asks again.
template <typename Number, typename PanelOf>
void quantized_product(const Number* x, PanelOf panel_of, const float* bias, Number* y, long M, long N, long K, long planes,
                       int threads) {
  Quantized rows(M, K, planes);
  const long panels = (N + PANEL - 1) / PANEL, step = ROWS / planes;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (long m = 0; m < M; m++) rows.set(m, x + m * K, K);
    float sums[ROWS * PANEL];
#pragma omp for collapse(2) schedule(dynamic)
    for (long chunk = 0; chunk < M; chunk += CHUNK)
      for (long p = 0; p < panels; p++) {
        const auto panel = panel_of(p, rows.groups);
        for (long m = chunk; m < std::min(M, chunk + CHUNK); m += step) {
          long count = std::min({step, M - m, chunk + CHUNK - m});
          with_rows(count * planes, [&](auto R) { quantized_panel<R>(rows, m * planes, panel, sums); });
          finish(sums, bias ? bias + p * PANEL : nullptr, y + m * N + p * PANEL, count, N, N - p * PANEL);
        }
      }
  }
}

}  // namespace
