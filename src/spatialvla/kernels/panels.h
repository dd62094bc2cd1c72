// What the kernels share: panels of weights, and the inner loop that multiplies rows with one.
//
// Weights lie in panels of 64 outputs, padded with zeros. Within a panel the numbers that one instruction multiplies
// (2 in bfloat16, 4 in 8 bits) lie together, for each output in turn, so that a panel is read from its beginning to its
// end. Needs AVX-512 with BF16.

#pragma once

#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

namespace {

constexpr long PANEL = 64;     // outputs: four registers
constexpr long ROWS = 6;       // of x: their sums take 24 registers beside four of weights
constexpr long AHEAD = 4096;   // numbers that weights are fetched ahead

using Half = uint16_t;

inline __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
inline __m512 load(const Half* p, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}
inline float widened(Half half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline void store(float* p, __mmask16 mask, __m512 value) { _mm512_mask_storeu_ps(p, mask, value); }
inline void store(Half* p, __mmask16 mask, __m512 value) {
  _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(value));
}
inline __mmask16 first(long count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1); }

inline __m512i broadcast(const void* four_bytes) {
  int bits;
  memcpy(&bits, four_bytes, 4);
  return _mm512_set1_epi32(bits);
}

// Sums (rows, PANEL) of one panel, in float32, to the N outputs of y that the panel stands for.
template <typename Number>
void finish(const float* sums, const float* bias, Number* y, long rows, long stride, long outputs) {
  for (long m = 0; m < rows; m++)
    for (long n = 0; n < PANEL; n += 16) {
      __mmask16 mask = first(outputs - n);
      __m512 sum = _mm512_loadu_ps(sums + m * PANEL + n);
      store(y + m * stride + n, mask, bias ? _mm512_add_ps(sum, load(bias + n, mask)) : sum);
    }
}

// The unrolled loops keep all sums in registers, which GCC does not see by itself.

// M rows of x times `depth` rows of a panel; `sums` (M, PANEL) are what came before in K. depth is even. Of the panel's
// outputs only the first 16 * V are computed.
template <int M, int V = 4>
__attribute__((noinline)) void multiply(const Half* x, long stride, const Half* w, long depth, float* sums) {
  __m512 s[M][V];
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) s[m][v] = _mm512_loadu_ps(sums + m * PANEL + 16 * v);
#pragma GCC unroll 1
  for (long k = 0; k < depth; k += 2, w += 2 * PANEL) {
    __m512bh weights[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) {
      weights[v] = (__m512bh)_mm512_loadu_si512(w + 32 * v);
      if (M <= 2) _mm_prefetch((const char*)(w + AHEAD + 32 * v), _MM_HINT_T0);
    }
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
      __m512bh row = (__m512bh)broadcast(x + m * stride + k);
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) s[m][v] = _mm512_dpbf16_ps(s[m][v], weights[v], row);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) _mm512_storeu_ps(sums + m * PANEL + 16 * v, s[m][v]);
}

// Calls work(std::integral_constant<int, rows>) for 1 to ROWS rows.
template <typename Work>
inline void with_rows(long rows, Work work) {
  switch (rows) {
    case 1: return work(std::integral_constant<int, 1>());
    case 2: return work(std::integral_constant<int, 2>());
    case 3: return work(std::integral_constant<int, 3>());
    case 4: return work(std::integral_constant<int, 4>());
    case 5: return work(std::integral_constant<int, 5>());
    default: return work(std::integral_constant<int, ROWS>());
  }
}

// The same for the 16 * V outputs that are left of a panel: calls work(rows, std::integral_constant<int, V>).
template <typename Work>
inline void with_rows_and_outputs(long rows, long outputs, Work work) {
  with_rows(rows, [&](auto R) {
    switch ((outputs + 15) / 16) {
      case 1: return work(R, std::integral_constant<int, 1>());
      case 2: return work(R, std::integral_constant<int, 2>());
      case 3: return work(R, std::integral_constant<int, 3>());
      default: return work(R, std::integral_constant<int, 4>());
    }
  });
}

// Memory of one thread, kept for its next call and aligned: a load that meets two cache lines takes twice as long.
template <typename Number>
struct Scratch {
  Number* data = nullptr;
  long size = 0;

  Number* get(long count) {
    if (count > size) {
      free(data);
      size = (count + 63) / 64 * 64;
      data = (Number*)aligned_alloc(64, size * sizeof(Number));
      if (!data) throw std::bad_alloc();
    }
    return data;
  }
  ~Scratch() { free(data); }
};

}  // namespace
