"""Plain vocabulary. Pseudo-words are made of the sound pieces; the real names only keep everyday prompts familiar."""

from __future__ import annotations

from typing import Final


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


# Repetition weighs: plain sounds are likelier than clusters.
ONSETS: Final = _list(
    "b, c, d, f, g, h, j, k, l, m, n, p, r, s, t, v, w, z, b, d, f, g, k, l, m, n, p, r, s, t, v, b, d, l, m, n, r, s, t,"
    "bl, br, ch, cl, cr, dr, fl, fr, gl, gr, kr, ph, pl, pr, qu, sc, sh, sk, sl, sm, sn, sp, st, str, th, tr, tw, wh, y"
)
VOWELS: Final = _list(
    "a, e, i, o, u, a, e, i, o, u, a, e, i, o, a, e, i, o, a, e, o, y, ai, au, ea, ee, ei, ia, ie, oa, oo, ou"
)
CODAS: Final = (
    *_list("b, ck, d, g, k, l, ll, m, n, n, nd, ng, nk, nt, p, r, r, rd, rk, rn, rt, s, sh, ss, st, t, th, v, x, z"),
    "",
    "",
    "",
)
SUFFIXES: Final = _list(
    "a, o, son, ski, sky, ova, ez, ini, elli, berg, mann, sen, dottir, ford, ton, worth, er, or, ist, ium, ity, ness,"
    "ing, ette, ling, let, ix, us, um, ora, ella, ino, ine, ax, on, is, el, et, ard, ow"
)
ACCENTS: Final = {
    "a": "áàäåãâ", "e": "éèëê", "i": "íîï", "o": "óöøôõ", "u": "úüû", "n": "ñ", "c": "çć", "s": "š", "z": "ž", "l": "ł",
}  # fmt: skip

GIVEN_NAMES: Final = _list(
    "Alice, Amir, Ana, Anders, Anna, Antonio, Aya, Ben, Bianca, Boris, Carla, Carlos, Chen, Chloe, Clara, Daniel, Dave,"
    "Diana, Diego, Elena, Eli, Emil, Emma, Erik, Eva, Fatima, Felix, Fiona, Frank, Freya, George, Grace, Hana, Hannah,"
    "Hugo, Ian, Ida, Igor, Ines, Iris, Ivan, Jack, Jane, Jin, Joao, John, Jonas, Julia, Kai, Karim, Kate, Kenji, Lara,"
    "Laura, Leo, Lena, Liam, Lina, Linda, Lucas, Lucy, Luis, Maja, Marco, Maria, Marie, Mark, Marta, Mary, Max, Maya,"
    "Mei, Mia, Michael, Mina, Nadia, Nina, Noah, Nora, Oksana, Olga, Oliver, Omar, Oscar, Otto, Pablo, Paul, Pedro,"
    "Peter, Petra, Pia, Priya, Rafael, Ravi, Rita, Robert, Rosa, Ruth, Sam, Samira, Sara, Sarah, Sasha, Sofia, Stefan,"
    "Sven, Tara, Theo, Thomas, Tim, Tom, Tomas, Uma, Vera, Victor, Walter, Wei, Yara, Yuki, Yusuf, Zoe, Bob, Eve, Nick"
)
SURNAMES: Final = _list(
    "Adams, Alvarez, Andersen, Baker, Barbosa, Becker, Bell, Berger, Brown, Carter, Chan, Clark, Costa, Cruz, Davis,"
    "Diaz, Evans, Fischer, Fuchs, Garcia, Gomez, Green, Haas, Hall, Hansen, Hill, Huber, Ito, Ivanov, Jansen, Jones,"
    "Keller, Khan, Kim, King, Klein, Kowalski, Lang, Larsen, Lee, Lopez, Martin, Meyer, Mills, Moore, Moreau, Mori,"
    "Nguyen, Novak, Olsen, Park, Patel, Perez, Popov, Reed, Rossi, Roth, Santos, Sato, Schmidt, Silva, Singh, Smith,"
    "Stone, Suzuki, Tanaka, Taylor, Torres, Turner, Vogel, Walker, Wang, Weber, White, Wilson, Wolf, Wood, Young, Zhang"
)
PLACES: Final = _list(
    "Amsterdam, Athens, Auckland, Austin, Baghdad, Bangkok, Barcelona, Basel, Beijing, Belgrade, Bergen, Berlin, Bern,"
    "Bogota, Bonn, Boston, Bristol, Brussels, Budapest, Cairo, Chicago, Cologne, Copenhagen, Dakar, Dallas, Delhi,"
    "Denver, Dublin, Dubai, Edinburgh, Florence, Geneva, Genoa, Ghent, Glasgow, Graz, Hamburg, Hanoi, Havana, Helsinki,"
    "Houston, Istanbul, Jakarta, Kyiv, Kyoto, Lagos, Leeds, Lille, Lima, Lisbon, London, Los Angeles, Lyon, Madrid,"
    "Malaga, Manila, Marseille, Melbourne, Miami, Milan, Montreal, Moscow, Mumbai, Munich, Nairobi, Naples, New York,"
    "Nice, Oslo, Osaka, Ottawa, Oxford, Paris, Perth, Porto, Prague, Quito, Reykjavik, Riga, Rome, Rotterdam, Salzburg,"
    "San Francisco, Santiago, Seattle, Seoul, Seville, Shanghai, Singapore, Sofia, Stockholm, Sydney, Taipei, Tallinn,"
    "Tokyo, Toronto, Trieste, Tunis, Turin, Utrecht, Valencia, Vancouver, Venice, Vienna, Vilnius, Warsaw, Zagreb, Zurich"
)
PLACE_ENDINGS: Final = _list("burg, ville, ton, ford, stad, heim, field, port, mouth, ham, dorf, by, grad, polis")
PLACE_PREFIXES: Final = _list("New, Old, Port, Saint, Upper, North, South, San, Lake, Fort")

THINGS: Final = _list(
    "account, address, album, alarm, apple, archive, article, backup, bag, basket, battery, bed, bell, bike, bill, boat,"
    "book, bottle, box, branch, bread, bridge, bucket, budget, building, cable, cake, camera, candle, car, card, chair,"
    "channel, chart, claim, class, clock, coat, coin, comment, contact, contract, course, cup, delivery, desk, device,"
    "document, door, drill, engine, entry, event, fan, feed, file, filter, flag, flight, folder, form, game, garden, gate,"
    "glass, glove, group, guide, hammer, hat, heater, helmet, hotel, house, image, invoice, item, jacket, job, journal,"
    "kettle, key, kitchen, knife, label, ladder, lamp, lease, lesson, letter, license, light, list, loan, lock, log, machine,"
    "map, match, medal, meeting, menu, message, meter, mirror, model, module, motor, movie, mug, needle, network, note,"
    "notice, offer, order, oven, package, page, paint, panel, paper, parcel, parking, pass, patch, payment, pen, permit, phone,"
    "photo, piano, pipe, plan, plant, player, playlist, policy, poster, printer, product, profile, project, pump, query,"
    "quote, radio, recipe, record, refund, region, rental, repair, report, request, review, ring, road, robot, room, rope,"
    "route, sample, scarf, schedule, school, score, screen, sensor, server, session, shelf, ship, shirt, shoe, shop, signal,"
    "site, sofa, song, spoon, stamp, station, stock, store, survey, switch, table, tank, task, team, tent, test, ticket, timer,"
    "token, tool, tower, towel, toy, track, train, trip, truck, tube, tunnel, umbrella, unit, user, valve, vase, vehicle,"
    "version, video, visit, voucher, wagon, wall, watch, wheel, window, wire, workshop, zone"
)
QUALITIES: Final = _list(
    "average, backup, base, billing, blue, central, current, daily, default, digital, double, empty, external, extra, fast,"
    "final, first, fixed, front, full, global, green, heavy, hidden, hot, initial, inner, internal, large, last, left, local,"
    "long, lower, main, manual, mobile, monthly, native, new, next, normal, north, old, online, open, outer, personal, primary,"
    "private, public, quick, raw, red, regular, remote, right, round, safe, second, secret, shared, short, silent, simple,"
    "single, slow, small, smart, soft, solar, source, special, static, strong, target, temporary, third, total, upper, urgent,"
    "virtual, warm, weekly, white, wide"
)
MEASURES: Final = _list(
    "age, amount, angle, balance, capacity, cost, count, delay, density, depth, distance, duration, energy, fee, floor,"
    "height, humidity, index, interval, length, level, limit, load, mass, number, offset, page, percentage, position, power,"
    "pressure, price, priority, quantity, quota, radius, rank, rate, ratio, rating, retries, salary, score, size, speed, step,"
    "stock, strength, temperature, threshold, timeout, volume, voltage, weight, width, year"
)
COLOURS: Final = _list(
    "red, blue, green, yellow, black, white, purple, orange, brown, pink, grey, silver, gold, turquoise"
)
ANIMALS: Final = _list(
    "cat, dog, horse, cow, sheep, goat, pig, rabbit, mouse, lion, tiger, bear, wolf, fox, deer, owl, eagle, duck, hen, frog"
)
FRUITS: Final = _list("apple, banana, cherry, grape, kiwi, lemon, lime, mango, melon, orange, peach, pear, plum, fig")
VEGETABLES: Final = _list("carrot, potato, onion, cabbage, leek, spinach, pea, bean, radish, pumpkin, lettuce, celery")
TOOLS: Final = _list("hammer, saw, drill, wrench, pliers, chisel, file, axe, shovel, rake, level, clamp")
INSTRUMENTS: Final = _list("piano, violin, guitar, flute, cello, harp, trumpet, drum, oboe, clarinet, organ, banjo")
JOBS: Final = _list(
    "baker, teacher, nurse, doctor, engineer, farmer, pilot, painter, writer, lawyer, cook, carpenter, gardener, librarian,"
    "plumber, singer, dentist, tailor, miner, sailor, barber, chemist, judge, clerk, mechanic, florist, butcher, editor"
)
WEEKDAYS: Final = _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS: Final = _list(
    "January, February, March, April, May, June, July, August, September, October, November, December"
)
CATEGORIES: Final = {
    "colours": COLOURS, "animals": ANIMALS, "fruits": FRUITS, "vegetables": VEGETABLES, "tools": TOOLS,
    "instruments": INSTRUMENTS, "jobs": JOBS, "weekdays": WEEKDAYS, "months": MONTHS,
}  # fmt: skip
NUMBER_WORDS: Final = _list("zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")
