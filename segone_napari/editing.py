"""Repairs of a mask, and masks between corrected slices. Pure functions: nothing is changed.

Masks are (i, j, k), uint8 or bool, anything but 0 is inside; spacing is the distance in mm between
neighbouring voxels along each array axis. Every answer is uint8, 0 or 1, of the mask's shape.
Knows nothing of rows, files or windows: hand the answer to `EditHistory.edit` with the row's
number, and only that row is changed.

==========================  =====================================================
`keep_largest_part`         drop all but the largest connected part
`fill_holes`                fill what is enclosed, in 3-D or in each slice
`smooth`                    round the surface without shrinking the mask
`interpolate`               the slices between given ones
`trustworthy_slices`        which slices to interpolate between
==========================  =====================================================
"""
