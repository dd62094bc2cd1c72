// Functions of 16 numbers at once, in float32.

#pragma once

#include <immintrin.h>

namespace {

// e^x within 2e-7 of itself for x <= 88, infinite at 100; exactly 0 far below, as at minus infinity, and NaN for NaN.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-110.0f), x);  // gives its second operand for NaN
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), nearest);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693147182f), x);
  // Through the Chebyshev points of [-ln 2 / 2, ln 2 / 2].
  __m512 y = _mm512_set1_ps(0.00836929f);
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.04191851f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.16666504f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.4999886f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, whole);
}

// Within 3e-7, not relative to itself.
inline __m512 hyperbolic_tangent(__m512 x) {
  __m512 twice = _mm512_min_ps(_mm512_set1_ps(80.0f), _mm512_add_ps(x, x));
  __m512 above = _mm512_add_ps(exponential(twice), _mm512_set1_ps(1.0f));
  return _mm512_sub_ps(_mm512_set1_ps(1.0f), _mm512_div_ps(_mm512_set1_ps(2.0f), above));
}

// By the tanh approximation, x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2, which is x · sigmoid of twice that argument.
inline __m512 gelu(__m512 x) {
  const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
  const __m512 twice = _mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(-1.5957691216f));
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(100.0f), twice);  // e^100 is infinite
  return _mm512_div_ps(x, _mm512_add_ps(exponential(bounded), _mm512_set1_ps(1.0f)));
}

}  // namespace
