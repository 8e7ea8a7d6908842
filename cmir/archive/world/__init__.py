"""A generated world: land covers and objects on a ground, seen by a satellite (PAN, MS) and by an aerial camera (RGB).

    covers    what a surface reflects in blue, green, red and near-infrared
    canvas    surfaces painted in metres -> Ground (reflectance, heights, slopes, label of every pixel)
    objects   aircraft, ships, cars, houses, tanks, courts, trees as shapes on a canvas
    shores, transport, settlements, countryside     whole layouts, one per scene class
    scene     (seed, index) -> the ground of a scene, and whether it is one seen before
    place     where a ground lies (UTM, lon/lat)
    sky       when it is seen: sun, haze, season, clouds
    camera    ground + sky -> radiance -> digital numbers of PAN, MS and RGB

Everything about scene i follows from (seed, i): nothing depends on how many scenes there are or on which process draws.
"""
