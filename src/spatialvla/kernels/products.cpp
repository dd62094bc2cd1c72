// Linear layers on a CPU: y = x · wᵀ + bias, at the speed of the memory for few rows of x and of the vector units for many.
//
// x (M, K) and y (M, N) are bfloat16 or float32; sums are float32. Needs AVX-512 with BF16 and VNNI.

#include "panels.h"

#include <omp.h>

#include <limits>
#include <vector>

namespace {

constexpr long CHUNK = 504;     // rows of x that meet a panel before the next panel is read: they stay in a cache
constexpr long STRETCH = 3072;  // of K in bfloat16: of a panel, what stays in a second-level cache
constexpr long GROUP = 128;     // numbers that share a scale in 8 bits

// M rows of 8-bit x times one group of a panel; `sums` (M, PANEL) begin with `begin` and are integers.
template <int M>
__attribute__((noinline)) void multiply(
    const int8_t* x, long stride, const int* begin, long step, const uint8_t* w, int* sums) {
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
      // The intrinsic makes GCC 12 copy every sum before and after.
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) asm("vpdpbusd %2, %1, %0" : "+v"(s[m][v]) : "v"(weights[v]), "v"(row));
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) _mm512_storeu_si512(sums + m * PANEL + 16 * v, s[m][v]);
}

// Rows of x in 8 bits. With two planes each row becomes two: its high and its low 8 of 16 bits, with a scale of their own.
struct Quantized {
  long planes, width, groups;
  std::vector<int8_t> numbers;  // (M * planes, width)
  std::vector<float> scales;    // (M * planes, groups)
  std::vector<int> begin;       // (M * planes, groups): weights are stored plus 128, which this takes back

  Quantized(long M, long K, long planes)
      : planes(planes), width((K + GROUP - 1) / GROUP * GROUP), groups(width / GROUP), numbers(M * planes * width),
        scales(M * planes * groups), begin(M * planes * groups) {}

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
    _mm_storeu_si128((__m128i*)(numbers.data() + row * width + g * GROUP + 16 * i), _mm512_cvtepi32_epi8(values));
    sum = _mm512_add_epi32(sum, values);
  }
};

// One panel for M rows of 8 bits: sums (M / planes, PANEL) in float32.
template <int M>
void quantized_panel(const Quantized& x, long row, const uint8_t* w, const float* scales, float* sums) {
  alignas(64) int whole[M * PANEL];
  std::fill(sums, sums + M / x.planes * PANEL, 0.0f);
  for (long g = 0; g < x.groups; g++, w += GROUP * PANEL, scales += PANEL) {
    long at = row * x.groups + g;
    multiply<M>(x.numbers.data() + row * x.width + g * GROUP, x.width, x.begin.data() + at, x.groups, w, whole);
    float* to = sums;
    for (int r = 0; r < M; r++) {
      __m512 scale = _mm512_set1_ps(x.scales[at + r * x.groups]);
#pragma GCC unroll 4
      for (int n = 0; n < PANEL; n += 16) {
        __m512 factor = _mm512_mul_ps(scale, _mm512_loadu_ps(scales + n));
        __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(whole + r * PANEL + n));
        _mm512_storeu_ps(to + n, _mm512_fmadd_ps(sum, factor, _mm512_loadu_ps(to + n)));
      }
      if (x.planes == 1 || r % 2) to += PANEL;
    }
  }
}

template <typename Number>
void quantized_product(const Number* x, const uint8_t* w, const float* scales, const float* bias, Number* y, long M,
                       long N, long K, long planes, int threads) {
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
        const uint8_t* panel = w + p * rows.width * PANEL;
        for (long m = chunk; m < std::min(M, chunk + CHUNK); m += step) {
          long count = std::min({step, M - m, chunk + CHUNK - m});
          with_rows(count * planes, [&](auto R) {
            quantized_panel<R>(rows, m * planes, panel, scales + p * rows.groups * PANEL, sums);
          });
          finish(sums, bias ? bias + p * PANEL : nullptr, y + m * N + p * PANEL, count, N, N - p * PANEL);
        }
      }
  }
}

}  // namespace

extern "C" {

// w: (panels, K / 2, PANEL, 2). K is even.
void bf16_product(
    const Half* x, const Half* w, const float* bias, Half* y, long M, long N, long K, int threads) {
  const long panels = (N + PANEL - 1) / PANEL;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sums(std::min(M, CHUNK) * PANEL);
#pragma omp for collapse(2) schedule(dynamic)
    for (long chunk = 0; chunk < M; chunk += CHUNK)
      for (long p = 0; p < panels; p++) {
        long rows = std::min(CHUNK, M - chunk);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (long k = 0; k < K; k += STRETCH)
          for (long m = 0; m < rows; m += ROWS) {
            const Half* from = x + (chunk + m) * K + k;
            const Half* part = w + (p * K + k) * PANEL;
            long depth = std::min(STRETCH, K - k);
            with_rows(rows - m, [&](auto R) { multiply<R>(from, K, part, depth, sums.data() + m * PANEL); });
          }
        const float* panel_bias = bias ? bias + p * PANEL : nullptr;
        finish(sums.data(), panel_bias, y + chunk * N + p * PANEL, rows, N, N - p * PANEL);
      }
  }
}

// w: (panels, width / 4, PANEL, 4), the 8-bit weight plus 128; width is K in whole groups. scales: (panels, groups, PANEL).
// planes: 1 takes x in 8 bits, 2 in 16, with a scale for each group of a row. wide: x and y are float32, not bfloat16.
void int8_product(const void* x, const uint8_t* w, const float* scales, const float* bias, void* y, long M, long N,
                  long K, long planes, int wide, int threads) {
  if (wide)
    quantized_product((const float*)x, w, scales, bias, (float*)y, M, N, K, planes, threads);
  else
    quantized_product((const Half*)x, w, scales, bias, (Half*)y, M, N, K, planes, threads);
}
}
