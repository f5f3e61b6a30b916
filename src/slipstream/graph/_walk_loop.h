/* One block of people side by side, for one instruction set: see _walk.c. */

/* [rows][LANES]: the sums over all cells of each row, of gamma times what has arrived at its column. */
static void NAME(gather)(const Hops *into, const double *arrived, double *value) {
    for (Py_ssize_t row = 0; row < into->rows; row++) {
        Lanes sum = {0};
        for (int64_t cell = into->offset[row]; cell < into->offset[row + 1]; cell++)
            sum += into->gamma[cell] * *(const Lanes *)(arrived + (Py_ssize_t)into->column[cell] * LANES);
        *(Lanes *)(value + row * LANES) = sum;
    }
}
#undef NAME
